"""Posture in Dagster: resources, ops, and the rules that bite on runs."""

import logging
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
from secmon_dagster.posture.violations import (
    CHECK_OF_VIOLATION,
    due_terminations,
    mark_terminated,
)

_log = logging.getLogger(__name__)
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
    if run.status is dg.DagsterRunStatus.CANCELED and not started:
        return 0  # denied or withdrawn in the queue: nothing was executed
    duration = max(0.0, (ended - started) * 1000) if started and ended else 0.0
    instance_id = run.tags.get(INSTANCE_TAG)
    with session.begin() as connection:
        workflow_id = run.tags.get(WORKFLOW_TAG) or discovered_workflow(
            connection, actor_of(run), run.job_name
        )
        # From the executor's entries: the violations made of them may not be there yet, and runs
        # without an instance have none.
        broken = connection.execute(
            "SELECT FROM audit_entries WHERE action = 'LIMIT_VIOLATION' AND execution_id = %s "
            "UNION ALL SELECT FROM security_violations WHERE run_id = %s LIMIT 1",
            (run.run_id, run.run_id),
        ).fetchone()
        score = None
        if instance_id is not None:
            row = connection.execute(
                "SELECT security_score FROM security_profiles WHERE instance_id = %s",
                (instance_id,),
            ).fetchone()
            score = None if row is None else float(row[0])
        execution = ExecutionData(duration, run.is_success, score)
        return len(track_run(connection, workflow_id, run.run_id, execution, broken is None))


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
        seen = _reported(data)
        if seen is None:
            # Whoever may append to the chain can write such an entry; it stops no rule.
            _log.warning("audit entry %s is no violation that can be read", entry_id)
            continue
        try:
            service.report_violation(
                instance_id,
                *seen,
                details={"audit_entry_id": entry_id},
                run_id=run_id,
                source_id=entry_id,
            )
        except NotFoundError:
            continue  # the instance is gone; what its run did is in the chain all the same
    return cursor


def _reported(data: str | None) -> tuple[str, Severity, str] | None:
    """Kind, severity and message of an entry; None if it doesn't have them."""
    try:
        seen = orjson.loads(data or "")
        kind, severity = seen["type"], Severity(seen["severity"])
        known = kind in CHECK_OF_VIOLATION
    except (ValueError, KeyError, TypeError):
        return None
    message = str(seen.get("message", kind)).replace("\x00", "")
    return (kind, severity, message) if known else None


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
        cancelled = [r.run_id for r in runs if _cancel(instance, r.run_id)]
        left = [
            r.run_id for r in runs if r.run_id not in cancelled and not _is_over(instance, r.run_id)
        ]
        if left:
            # Still due: the next tick tries them again.
            _log.error("runs of instance %s can't be cancelled: %s", instance_id, ", ".join(left))
        if cancelled or not left:
            mark_terminated(session, violation_id, instance_id, cancelled, done=not left)
        ended += cancelled
    return ended


def _cancel(instance: dg.DagsterInstance, run_id: str) -> bool:
    try:
        return instance.run_coordinator.cancel_run(run_id)
    except Exception:
        # Its launcher may be out of reach; the runs of others are not kept waiting for that.
        _log.exception("run %s can't be cancelled", run_id)
        return False


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


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
            denied = decision.state == "denied"
            if denied and not (
                _cancel(instance, decision.run_id) or _is_over(instance, decision.run_id)
            ):
                continue  # the next tick tries it again
        mark_delivered(session, decision.run_id)
    return len(decisions)
