"""Limits too low for the work, to see what happens: the op is ended and the run says why."""

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op(tags=limits(memory="64MiB", time="30s"))
def needs_more_memory_than_it_declared() -> int:
    return len(bytearray(500 * 1024 * 1024))


@dg.op(tags=limits(memory="64MiB", time="30s"))
def is_content() -> int:
    return 1


@dg.failure_hook
def tell(context: dg.HookContext) -> None:
    violation = getattr(context.op_exception, "context", {})
    context.log.error(f"{violation['type']}: limit {violation['limit']} {violation['unit']}")


@dg.job(executor_def=resource_limit_executor, hooks={tell})
def strict_limits():
    needs_more_memory_than_it_declared()
    is_content()
