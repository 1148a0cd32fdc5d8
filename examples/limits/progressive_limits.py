"""Limits that grow with the pipeline's stages."""

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor

STAGES = {
    "extract": limits(memory="64MiB", cpu=25, time="30s"),
    "transform": limits(memory="128MiB", cpu=50, time="1m"),
    "train": limits(memory="256MiB", cpu=100, time="5m"),
}


def stage(name: str) -> dg.OpDefinition:
    @dg.op(name=name, tags=STAGES[name], ins={"rows": dg.In(int, default_value=0)})
    def run_stage(context: dg.OpExecutionContext, rows: int) -> int:
        context.log.info(f"{name} may use {STAGES[name]['secmon/limits']}")
        return rows + 1

    return run_stage


@dg.job(executor_def=resource_limit_executor)
def progressive_limits():
    rows = stage("extract")()
    stage("train")(stage("transform")(rows))
