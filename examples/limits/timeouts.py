"""An op over its time is asked to stop, may tidy up, and is ended if it doesn't."""

import time

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op(tags=limits(time="1s"))
def tidies_up(context: dg.OpExecutionContext) -> None:
    try:
        time.sleep(60)
    finally:
        context.log.info("tidied up")


@dg.op(tags=limits(time="1s"), retry_policy=dg.RetryPolicy(max_retries=1))
def is_quick_the_second_time(context: dg.OpExecutionContext) -> None:
    if context.retry_number == 0:
        time.sleep(60)


@dg.job(executor_def=resource_limit_executor.configured({"grace": 2.0}))
def timeouts():
    tidies_up()
    is_quick_the_second_time()
