"""Jobs that leave a line for each run, and the sensor that drives executions."""

import os
import time
from pathlib import Path

import dagster as dg

from secmon_dagster.orchestration.workflows import workflow_sensor


@dg.op
def leave_a_line(context: dg.OpExecutionContext) -> None:
    path = Path(os.environ["SECMON_TEST_LINES"])
    with path.open("a") as lines:
        lines.write(f"{context.run.tags['secmon/node']}\n")
    time.sleep(float(os.environ.get("SECMON_TEST_SECONDS", "0")))
    context.add_output_metadata({"accuracy": 0.93, "rows": 12})


@dg.op
def break_down() -> None:
    raise RuntimeError("broken on purpose")


@dg.job(executor_def=dg.in_process_executor)
def work() -> None:
    leave_a_line()


@dg.job(executor_def=dg.in_process_executor)
def breakdown() -> None:
    break_down()


defs = dg.Definitions(jobs=[work, breakdown], sensors=[workflow_sensor([work, breakdown])])
