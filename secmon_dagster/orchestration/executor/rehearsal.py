"""A job of two ops that do nothing, executed where nobody waits for it.

The first execution of any step costs three times what a later one does: Python has yet to learn
which types its instructions meet, and Dagster to fill its caches. The zygote does that once for all
its forks. A fork that waits for its order then executes it again, so that the pages it must copy
from the zygote, thousands of them, are its own by the time it is asked for.

Nothing of it is stored or leaves the process, and no code of the run's job is called.
"""

from __future__ import annotations

import dagster as dg
from dagster import DagsterInstance

from secmon_dagster.orchestration.dagster_internals import (
    DagsterRun,
    InMemoryJob,
    create_execution_plan,
    divert_events,
    execute_plan_iterator,
    serialize_value,
)


@dg.op
def first() -> int:
    return 0


@dg.op
def second(number: int) -> int:
    return number


@dg.job(resource_defs={"io_manager": dg.mem_io_manager}, executor_def=dg.in_process_executor)
def rehearsed() -> None:
    second(first())


_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Rehearsal:
    """Call it as often as wanted; it needs no database and leaves no trace."""

    def __init__(self) -> None:
        self._instance = DagsterInstance.ephemeral()
        divert_events(self._instance, serialize_value)
        self._job = InMemoryJob(rehearsed)
        self._run = DagsterRun(job_name=rehearsed.name)

    def __call__(self) -> None:
        plan = create_execution_plan(job=self._job, run_config=_QUIET)
        events = execute_plan_iterator(
            plan, self._job, self._run, self._instance, run_config=_QUIET
        )
        for _ in events:
            continue
