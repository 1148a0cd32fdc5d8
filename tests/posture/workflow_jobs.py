"""Jobs that leave a line for each run, and the sensor that drives executions."""

import contextlib
import os
import socket
import time
from pathlib import Path

import dagster as dg

from secmon_dagster.defs.posture.rules import posture_rules
from secmon_dagster.orchestration.executor import resource_limit_executor
from secmon_dagster.orchestration.workflows import LocalRuns, workflow_sensor
from secmon_dagster.posture import Session
from secmon_dagster.posture.executions import drive
from secmon_dagster.settings import get_settings


@dg.op
def leave_a_line(context: dg.OpExecutionContext) -> None:
    path = Path(os.environ["SECMON_TEST_LINES"])
    with path.open("a") as lines:
        lines.write(f"{context.run.tags['secmon/node']}\n")
    time.sleep(float(os.environ.get("SECMON_TEST_SECONDS", "0")))
    context.add_output_metadata(
        {
            "accuracy": 0.93,
            "rows": 12,
            "loss": float("nan"),
            "parameters": 10**400,
            "security_score": 100,
        }
    )


@dg.op
def break_down() -> None:
    raise RuntimeError("broken on purpose")


@dg.job(executor_def=dg.in_process_executor)
def work() -> None:
    leave_a_line()


@dg.job(executor_def=dg.in_process_executor)
def breakdown() -> None:
    break_down()


@dg.op
def call_out() -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


@dg.op
def swell() -> None:
    held = bytearray(400 << 20)
    time.sleep(30)  # long enough to be seen where limits are sampled
    del held


@dg.op(config_schema={"rows": int})
def read() -> None: ...


@dg.job(executor_def=dg.in_process_executor)
def configured() -> None:
    read()


@dg.job(executor_def=resource_limit_executor)
def misbehave() -> None:
    call_out()
    swell()


defs = dg.Definitions(
    jobs=[work, breakdown, configured, misbehave],
    sensors=[workflow_sensor([work, breakdown, configured]), posture_rules],
)


def drive_here(execution_id: str, environment: dict[str, str]) -> None:
    """Drive an execution to its end in this process, for a test that kills it."""
    os.environ.update(environment)
    get_settings.cache_clear()
    with dg.DagsterInstance.get() as instance:
        drive(Session.open(), execution_id, LocalRuns(instance, __name__), poll_seconds=0.05)
