"""Violations: noted, scored at once, and where the layer says so, followed by termination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.posture.alerts import alert_falls
from secmon_dagster.posture.layers import MonitoringMode, SecurityLayer
from secmon_dagster.posture.records import Violation
from secmon_dagster.posture.score import POINTS, CheckResult, CheckStatus, CheckType, Severity
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import (
    fetch,
    fetch_one,
    insert_checks,
    latest_statuses,
    refresh_score,
    violation_of,
)

# Which of the six checks a kind of violation is evidence for. The five of the executor come first;
# a limit of consumption that was broken speaks about consumption, as the request rate does.
CHECK_OF_VIOLATION = {
    "memory_limit_exceeded": CheckType.RATE_LIMITING,
    "cpu_limit_exceeded": CheckType.RATE_LIMITING,
    "time_limit_exceeded": CheckType.RATE_LIMITING,
    "unauthorized_access": CheckType.AUTHORIZATION,
    "invalid_configuration": CheckType.DATA_VALIDATION,
    "rate_limit_exceeded": CheckType.RATE_LIMITING,
    "out_of_scope": CheckType.AUTHORIZATION,
    "foreign_rows": CheckType.AUTHORIZATION,
    "invalid_credential": CheckType.AUTHENTICATION,
    "invalid_data": CheckType.DATA_VALIDATION,
    "unsafe_prompt": CheckType.INPUT_SANITIZATION,
    "unsafe_output": CheckType.OUTPUT_ENCODING,
}


def status_of(severity: Severity) -> CheckStatus:
    """What a violation of this severity makes of its check: failed from high on."""
    serious = severity in (Severity.HIGH, Severity.CRITICAL)
    return CheckStatus.FAILED if serious else CheckStatus.WARNING


def note_violation(
    session: Session,
    connection: Connection,
    instance_id: str,
    layer: SecurityLayer | None,
    violation_type: str,
    severity: Severity,
    description: str,
    details: Mapping[str, Any],
    *,
    run_id: str | None = None,
    source_id: str | None = None,
) -> Violation | None:
    """Store a violation, lower the score, and mark the runs for termination if the layer says so.

    Args:
        source_id: the reporter's own id for it; a second report of the same is ignored.

    Returns:
        The violation; None when it had been reported before.
    """
    check_type = CHECK_OF_VIOLATION.get(violation_type, CheckType.AUTHORIZATION)
    # Checks under way hold this lock from before they look until their results are stored; noted
    # without it, the violation could be unseen by them and yet overruled.
    connection.execute(
        "SELECT FROM security_profiles WHERE instance_id = %s FOR UPDATE", (instance_id,)
    )
    ends_runs = (
        layer is not None
        and layer.config.auto_terminate_on_violation
        and layer.monitoring_mode is not MonitoringMode.PASSIVE
    )
    row = fetch_one(
        connection,
        "INSERT INTO security_violations (instance_id, violation_type, check_type, severity, "
        "description, details, run_id, source_id, termination) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (source_id) DO NOTHING "
        "RETURNING *",
        instance_id,
        violation_type,
        check_type,
        severity,
        description,
        Jsonb(dict(details)),
        run_id,
        source_id,
        "due" if ends_runs else "none",
    )
    if row is None:
        return None
    violation = violation_of(row)
    result = CheckResult(
        check_type,
        status_of(severity),
        severity,
        description,
        {"violation_id": violation.violation_id, "violation_type": violation_type},
    )
    latest = latest_statuses(connection, instance_id).get(check_type)
    # A slighter violation than what the check already stands at must not lift the score.
    if latest is None or POINTS[result.status] <= POINTS[latest]:
        insert_checks(connection, {instance_id: [result]})
    point = refresh_score(connection, instance_id, f"violation: {violation_type}")
    if point is not None:
        alert_falls(session, connection, {instance_id: point})
    session.record(
        connection,
        "violation",
        "agent_instance",
        resource_id=instance_id,
        details={
            "violation_id": violation.violation_id,
            "violation_type": violation_type,
            "severity": severity,
            "description": description,
        },
        level="critical" if status_of(severity) is CheckStatus.FAILED else "warn",
        event_type="security.violation",
        execution_id=run_id,
    )
    return violation


def due_terminations(session: Session) -> list[tuple[str, str]]:
    """Violations whose instance's runs have yet to be ended: violation and instance."""
    with session.begin() as connection:
        rows = fetch(
            connection,
            "SELECT violation_id, instance_id FROM security_violations "
            "WHERE termination = 'due' ORDER BY at",
        )
    return [(row["violation_id"], row["instance_id"]) for row in rows]


def mark_terminated(
    session: Session, violation_id: str, instance_id: str, run_ids: Sequence[str], *, done: bool
) -> None:
    """Runs of the instance were ended for this violation.

    Args:
        done: whether these were the last ones.
    """
    with session.begin() as connection:
        connection.execute(
            "UPDATE security_violations SET termination = %s, "
            "ended_runs = ended_runs || %s::text[] WHERE violation_id = %s",
            ("done" if done else "due", list(run_ids), violation_id),
        )
        session.record(
            connection,
            "terminate_runs",
            "agent_instance",
            resource_id=instance_id,
            details={"violation_id": violation_id, "run_ids": list(run_ids)},
            event_type="execution.cancelled",
            level="critical",
        )
