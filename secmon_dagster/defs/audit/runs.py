"""Each run of the code location in the audit chain, without a word in the user's code.

Dagster reads the annotation of ``context`` at run time, hence no postponed annotations here.
"""

import dagster as dg

from secmon_dagster.audit import get_audit_logger
from secmon_dagster.orchestration.run_trail import complete_trail


def _sensor(name: str, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name=name,
        run_status=status,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Appends to the audit chain what the executor could not write about a run.",
    )
    def complete(context: dg.RunStatusSensorContext) -> None:
        added = complete_trail(get_audit_logger(), context.instance, context.dagster_run)
        context.log.info("%d entries added for run %s", len(added), context.dagster_run.run_id)

    return complete


audit_runs_succeeded = _sensor("audit_runs_succeeded", dg.DagsterRunStatus.SUCCESS)
audit_runs_failed = _sensor("audit_runs_failed", dg.DagsterRunStatus.FAILURE)
audit_runs_cancelled = _sensor("audit_runs_cancelled", dg.DagsterRunStatus.CANCELED)
