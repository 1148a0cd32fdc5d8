"""Every instance is a partition of the asset ``instances``; its six checks are asset checks."""

from collections.abc import Iterator

import dagster as dg

from secmon_dagster.orchestration.posture import SecurityMonitoring
from secmon_dagster.orchestration.posture_ops import run_security_checks
from secmon_dagster.posture import (
    AgentManagementService,
    CheckStatus,
    CheckType,
    SecurityCheck,
)

INSTANCES = dg.DynamicPartitionsDefinition(name="agent_instances")
_SEVERITY = {
    CheckStatus.FAILED: dg.AssetCheckSeverity.ERROR,
    CheckStatus.WARNING: dg.AssetCheckSeverity.WARN,
}


def check_result(check: SecurityCheck) -> dg.AssetCheckResult:
    """A stored result as Dagster shows it: only failed and warning don't pass."""
    return dg.AssetCheckResult(
        check_name=str(check.check_type),
        passed=check.status not in _SEVERITY,
        severity=_SEVERITY.get(check.status, dg.AssetCheckSeverity.WARN),
        description=check.description,
        metadata={
            "status": str(check.status),
            "severity": str(check.severity),
            "check_id": check.check_id,
            "details": dg.MetadataValue.json(check.details),
        },
    )


@dg.asset(
    partitions_def=INSTANCES,
    group_name="posture",
    check_specs=[dg.AssetCheckSpec(str(kind), asset="instances") for kind in CheckType],
)
def instances(
    context: dg.AssetExecutionContext, security: SecurityMonitoring
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """The posture of one agent instance: its score, and the six checks behind it."""
    service = security.service
    checks = service.run_security_checks(context.partition_key)
    profile = service.get_instance_security_profile(context.partition_key)
    yield dg.MaterializeResult(
        metadata={
            "security_score": profile.security_score,
            "band": str(profile.status),
            "layer": profile.layer_id,
        }
    )
    for check in checks:
        yield check_result(check)


@dg.op
def check_every_instance(
    context: dg.OpExecutionContext, security: SecurityMonitoring
) -> dict[str, float]:
    """Run the checks of all instances that are under a layer; the worst scores are named."""
    scores = security.service.run_all_security_checks()
    known = set(context.instance.get_dynamic_partitions("agent_instances"))
    new = sorted(set(scores) - known)
    if new:
        context.instance.add_dynamic_partitions("agent_instances", new)
    worst = sorted(scores.items(), key=lambda item: item[1])[:10]
    context.add_output_metadata({"instances": len(scores), "worst": dg.MetadataValue.json(worst)})
    return scores


@dg.job(description="The six checks of every agent instance.")
def posture_checks() -> None:
    """All instances in one run."""
    check_every_instance()


@dg.job(description="The six checks of one agent instance.")
def posture_check() -> None:
    """One instance, named in the run's config (``ops: run_security_checks: inputs: …``)."""
    run_security_checks()


posture_schedule = dg.ScheduleDefinition(
    name="posture_checks_hourly",
    job=posture_checks,
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.sensor(
    name="agent_instance_partitions",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def agent_instance_partitions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Makes a partition for each new instance."""
    known = set(context.instance.get_dynamic_partitions("agent_instances"))
    there = {i.instance_id for i in AgentManagementService().list_instances(limit=100_000)}
    new = sorted(there - known)
    return dg.SensorResult(
        dynamic_partitions_requests=[INSTANCES.build_add_request(new)] if new else []
    )
