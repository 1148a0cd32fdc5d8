"""Re-scan what is stored when scanner, scripts or policy change; archive old history."""

import dagster as dg

from secmon_dagster import gate
from secmon_dagster.gate.upkeep import archive_history, rescan, stale_artifacts
from secmon_dagster.orchestration.actor import actor_of
from secmon_dagster.settings import get_settings


@dg.op
def rescan_stored_artifacts(context: dg.OpExecutionContext) -> None:
    """Check every stored artifact whose verdict no longer holds."""
    blocked = []
    for done in rescan(gate.Gatekeeper(), user_id=actor_of(context.run), run_id=context.run_id):
        verdict = done.verdict
        told = done.error if verdict is None else str(verdict.action)
        context.log.info(f"{done.artifact_id}: {told}")
        if verdict is None or not verdict.allowed:
            blocked.append(done.artifact_id)
    context.add_output_metadata({"refused": len(blocked)})
    if blocked:
        context.log.warning(f"refused: {', '.join(blocked)}")


@dg.op
def archive_old_history(context: dg.OpExecutionContext) -> None:
    """Move history older than the retention to files under the home folder."""
    rows, path = archive_history(get_settings().home / "archive")
    context.add_output_metadata({"rows": rows, "file": str(path) if path else "none"})


@dg.job(description="Checks stored artifacts anew after scanner, scripts or policy changed.")
def gate_rescan() -> None:
    rescan_stored_artifacts()


@dg.job(description="Archives monitoring_history after its retention (90 days).")
def gate_history_cleanup() -> None:
    archive_old_history()


gate_rescan_nightly = dg.ScheduleDefinition(
    job=gate_rescan,
    cron_schedule="15 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="The net below the sensor: every night, whatever changed.",
)

gate_history_cleanup_nightly = dg.ScheduleDefinition(
    job=gate_history_cleanup,
    cron_schedule="45 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.sensor(
    job=gate_rescan,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a re-scan as soon as a stored artifact has no verdict that holds.",
)
def stale_verdicts(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """One run a set of stale artifacts: the same set is not asked for twice."""
    stale = stale_artifacts()
    if not stale:
        return dg.SkipReason("every stored artifact has a verdict under the policy in force")
    known = context.cursor or ""
    current = ",".join(stale)
    if current == known:
        return dg.SkipReason(f"{len(stale)} artifacts were asked for already")
    context.update_cursor(current)
    return dg.RunRequest()
