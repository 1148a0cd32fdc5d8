"""The asset ``audit_chain``, what verifies and signs it, and what raises the alarm.

Dagster reads the annotation of ``context`` at run time, hence no postponed annotations here.
"""

import dagster as dg

from secmon_dagster.audit import Sequencer, get_audit_logger
from secmon_dagster.errors import CheckpointError
from secmon_dagster.orchestration.audit_watch import (
    ALARM,
    checkpoint_age_seconds,
    failed_lately,
    failures_after,
    raise_alarm,
    record,
)
from secmon_dagster.settings import get_settings


@dg.asset(group_name="audit", kinds={"postgres"})
def audit_chain(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """The whole chain, verified: its page plots entries, time, and the age of the checkpoint."""
    log = get_audit_logger()
    result = log.verification()
    number = record(result)
    for finding in (
        *result.invalid_entries[:20],
        *result.chain_breaks[:20],
        *result.checkpoint_problems[:20],
    ):
        context.log.critical("%s: %s", ALARM, finding)
    age, window = checkpoint_age_seconds(log), log.window()
    return dg.MaterializeResult(
        metadata={
            "verdict": str(result.verdict),
            "verification": number,
            "entries": result.total_entries,
            "verify_ms": result.duration_ms,
            "invalid_entries": result.invalid_count,
            "chain_breaks": result.break_count,
            "checkpoint_problems": len(result.checkpoint_problems),
            "uncovered_entries": window.entries,
            "uncovered_seconds": window.seconds,
            "outbox": result.outbox,
            **({} if age is None else {"checkpoint_age_seconds": age}),
        }
    )


audit_verify_job = dg.define_asset_job(
    "audit_verify_job",
    selection=dg.AssetSelection.assets(audit_chain),
    tags={"secmon/area": "audit"},
)

audit_verify_schedule = dg.ScheduleDefinition(
    name="audit_verify_schedule",
    job=audit_verify_job,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Verifies the whole chain every hour.",
)


@dg.op
def sign_audit_chain(context: dg.OpExecutionContext) -> None:
    """Empty the outbox and sign the chain as it is; fails if the chain contradicts its past."""
    log = get_audit_logger()
    moved = Sequencer(log.sequence).drain()
    publication = log.checkpoint()
    context.add_output_metadata(
        {"entries": publication.size, "new": publication.new, "from_outbox": moved}
    )
    for witness, why in publication.failed.items():
        context.log.error("checkpoint %d did not reach %s: %s", publication.size, witness, why)


@dg.job(tags={"secmon/area": "audit"})
def audit_checkpoint_job() -> None:
    """Signs the chain once, visibly."""
    sign_audit_chain()


audit_checkpoint_schedule = dg.ScheduleDefinition(
    name="audit_checkpoint_schedule",
    job=audit_checkpoint_job,
    cron_schedule="7 0 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Signs the chain once a day in a run of its own, so that it is seen to work.",
)


@dg.sensor(
    # As it is set when the definitions are loaded. The bound in entries is kept by the signer
    # process (`secmon audit checkpoint --watch`): a sensor can't be woken.
    minimum_interval_seconds=max(1, int(get_settings().audit_checkpoint_seconds)),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Empties the outbox and signs what is new, every SECMON_AUDIT_CHECKPOINT_SECONDS.",
)
def audit_checkpoint_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """A schedule's finest step is a minute and a run takes seconds: the window is shorter."""
    log = get_audit_logger()
    moved = Sequencer(log.sequence).drain()
    try:
        publication = log.checkpoint()
    except CheckpointError:
        # The chain contradicts what was signed: verify it, which names what is wrong and alarms.
        # Once an hour, as the schedule does, and not at every tick until somebody has come.
        number = failed_lately() or record(log.verification())
        context.log.critical("%s: no checkpoint; see verification %d", ALARM, number)
        raise
    failed = "".join(f"; not at {name}: {why}" for name, why in publication.failed.items())
    state = "signed" if publication.new else "nothing new"
    return dg.SkipReason(f"{state}: {publication.size} entries, {moved} from the outbox{failed}")


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Raises AUDIT_CORRUPTION once for every verification that failed.",
)
def audit_corruption_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Writes the alarm to the chain and to the alerts in one transaction."""
    failures = failures_after(int(context.cursor or 0))
    if not failures:
        return dg.SkipReason("no new failed verification")
    for number, result in failures:
        raise_alarm(number, result)
        context.log.critical("%s: verification %d failed", ALARM, number)
    return dg.SensorResult(
        skip_reason=f"{ALARM}: {len(failures)} verifications failed",
        cursor=str(failures[-1][0]),
    )
