"""``resource_limit_executor``: each step a boxed process, ended at its limits with the reason."""

from secmon_dagster.orchestration.executor.executor import (
    ResourceLimitExecutor,
    resource_limit_executor,
)

__all__ = ["ResourceLimitExecutor", "resource_limit_executor"]
