"""Some ops declare limits, some don't: those get the job's defaults."""

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op(tags=limits(memory="128MiB"))
def limited() -> int:
    return 1


@dg.op
def without_a_declaration(context: dg.OpExecutionContext, number: int) -> int:
    context.log.info("limited by default_limits of the executor")
    return number + 1


@dg.job(
    executor_def=resource_limit_executor.configured(
        {"default_limits": {"maxMemoryMB": 512, "maxExecutionTimeMs": 60_000}}
    )
)
def mixed_limits():
    without_a_declaration(limited())
