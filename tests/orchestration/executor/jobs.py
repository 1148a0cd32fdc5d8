"""Jobs the executor's tests run; each under any executor that the run's configuration names."""

import os
import sys
import time

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor

MB = 1024 * 1024


@dg.op
def one() -> int:
    return 1


@dg.op
def plus_one(context: dg.OpExecutionContext, number: int) -> int:
    context.log.info(f"adding to {number}")
    sys.stdout.write("to stdout\n")
    return number + 1


@dg.job(executor_def=resource_limit_executor)
def chain():
    plus_one.alias("third")(plus_one.alias("second")(one()))


@dg.op(tags=limits(memory="64MiB"))
def eats_memory():
    kept = []
    while True:
        kept.append(bytearray(MB))


@dg.op(tags=limits(time="1s"))
def sleeps():
    time.sleep(60)


@dg.op(tags=limits(time="1s"))
def ignores_sigterm():
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


@dg.op
def crashes():
    os.kill(os.getpid(), 11)


@dg.job(executor_def=resource_limit_executor)
def troubled():
    one()
    eats_memory()
    sleeps()
    ignores_sigterm()
    crashes()
