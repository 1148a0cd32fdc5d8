"""Posture in Dagster: resources, ops, and the rules that bite on runs."""

from typing import Any

import dagster as dg
import orjson

from secmon_dagster.database import Role, transaction
from secmon_dagster.errors import NotFoundError
from secmon_dagster.orchestration.actor import actor_of
from secmon_dagster.orchestration.prompts import DetectorInUse
from secmon_dagster.orchestration.run_queue import APPROVAL_TAG
from secmon_dagster.posture import (
    AgentManagementService,
    SecurityMonitoringService,
    Session,
    Severity,
)
from secmon_dagster.posture.approvals import mark_delivered, undelivered_decisions
from secmon_dagster.posture.executions import INSTANCE_TAG, WORKFLOW_TAG
from secmon_dagster.posture.patterns import ExecutionData, discovered_workflow, track_run
from secmon_dagster.posture.violations import due_terminations, mark_terminated

# Violations taken in by one tick.
_AT_ONCE = 200


class SecurityMonitoring(dg.ConfigurableResource[Any]):
    """``SecurityMonitoringService`` for ops and assets.

    Example::

        @dg.op
        def publish(context, security: SecurityMonitoring) -> None:
            security.service.log_instance_activity(instance_id, {"action": "publish"})
    """

    user_id: str | None = None

    @property
    def service(self) -> SecurityMonitoringService:
        """The service, for the user set here or else the platform."""
        return SecurityMonitoringService(
            Session.open(user_id=self.user_id), detector=DetectorInUse()
        )


class AgentManagement(dg.ConfigurableResource[Any]):
    """``AgentManagementService`` for ops and assets."""

    user_id: str | None = None

    @property
    def service(self) -> AgentManagementService:
        """The service, for the user set here or else the platform."""
        return AgentManagementService(Session.open(user_id=self.user_id))


def track_dagster_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """Count a finished run for the patterns of its workflow, once.

    A run of a declared workflow carries its id; any other job becomes a workflow of its own the
    first time it runs.

    Returns:
        For how many types it was counted.
    """
    session = Session.open(actor="workflow_patterns")
    stats = instance.get_run_stats(run.run_id)
    started, ended = stats.start_time, stats.end_time
    duration = max(0.0, (ended - started) * 1000) if started and ended else 0.0
    instance_id = run.tags.get(INSTANCE_TAG)
    with session.begin() as connection:
        workflow_id = run.tags.get(WORKFLOW_TAG) or discovered_workflow(
            connection, actor_of(run), run.job_name
        )
        score, clean = None, True
        if instance_id is not None:
            row = connection.execute(
                "SELECT p.security_score, NOT EXISTS (SELECT FROM security_violations v "
                "WHERE v.instance_id = p.instance_id AND v.run_id = %s) "
                "FROM security_profiles p WHERE p.instance_id = %s",
                (run.run_id, instance_id),
            ).fetchone()
            if row is not None:
                score, clean = float(row[0]), row[1]
        execution = ExecutionData(duration, run.is_success, score)
        return len(track_run(connection, workflow_id, run.run_id, execution, clean))


def take_in_violations(instance: dg.DagsterInstance, cursor: int) -> int:
    """Turn what the executor wrote about runs of instances into violations of those instances.

    Returns:
        The last entry looked at.
    """
    with transaction(Role.SERVICE) as connection:
        rows = connection.execute(
            "SELECT seq, entry_id, execution_id, data FROM audit_entries "
            "WHERE action = 'LIMIT_VIOLATION' AND seq > %s ORDER BY seq LIMIT %s",
            (cursor, _AT_ONCE),
        ).fetchall()
    service = SecurityMonitoringService(Session.open(actor="posture_rules"))
    for seq, entry_id, run_id, data in rows:
        cursor = seq
        run = instance.get_run_by_id(run_id) if run_id else None
        instance_id = None if run is None else run.tags.get(INSTANCE_TAG)
        if instance_id is None:
            continue
        seen = orjson.loads(data)
        try:
            service.report_violation(
                instance_id,
                seen["type"],
                Severity(seen["severity"]),
                str(seen.get("message", seen["type"])),
                details={"audit_entry_id": entry_id},
                run_id=run_id,
                source_id=entry_id,
            )
        except NotFoundError:
            continue  # the instance is gone; what its run did is in the chain all the same
    return cursor


def end_runs_of_offenders(instance: dg.DagsterInstance) -> list[str]:
    """Cancel the runs of instances whose layer ends them on a violation.

    Returns:
        The runs that were cancelled.
    """
    session = Session.open(actor="posture_rules")
    ended = []
    for violation_id, instance_id in due_terminations(session):
        runs = instance.get_runs(
            dg.RunsFilter(
                tags={INSTANCE_TAG: instance_id},
                statuses=[
                    dg.DagsterRunStatus.QUEUED,
                    dg.DagsterRunStatus.NOT_STARTED,
                    dg.DagsterRunStatus.STARTING,
                    dg.DagsterRunStatus.STARTED,
                ],
            )
        )
        cancelled = [r.run_id for r in runs if instance.run_coordinator.cancel_run(r.run_id)]
        mark_terminated(session, violation_id, instance_id, cancelled)
        ended += cancelled
    return ended


def deliver_decisions(instance: dg.DagsterInstance) -> int:
    """Let approved runs go and cancel denied ones.

    Returns:
        How many decisions were delivered.
    """
    session = Session.open(actor="posture_rules")
    decisions = undelivered_decisions(session)
    for decision in decisions:
        if instance.get_run_by_id(decision.run_id) is not None:
            by = decision.decided_by or ""
            instance.add_run_tags(
                decision.run_id, {APPROVAL_TAG: decision.state, "secmon/decided-by": by}
            )
            if decision.state == "denied":
                instance.run_coordinator.cancel_run(decision.run_id)
        mark_delivered(session, decision.run_id)
    return len(decisions)
