"""Checks in the database: begun once, ended with metrics, alert and audit in one transaction."""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.drift.alerts import AlertEvent, alert_event
from secmon_dagster.drift.results import DriftCheckResult, DriftReport
from secmon_dagster.drift.vocabulary import AlertLevel, ExecutionStatus

ACTOR = "drift_scheduler"


class AuditOutbox(Protocol):
    """Puts an audit entry into the transaction of ``connection``; returns the entry's id."""

    def __call__(
        self,
        connection: psycopg.Connection[Any],
        /,
        *,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: dict[str, Any] | None = None,
        details: dict[str, Any] | None = None,
        level: str = "info",
    ) -> str: ...


def begin_check(
    connection: psycopg.Connection[Any],
    check_id: str,
    model_id: str,
    version: str,
    *,
    now: datetime,
    due_at: datetime | None = None,
    run_id: str | None = None,
) -> bool:
    """Take a check: True for exactly one caller, however many runs were started for it.

    A PENDING check (asked for by the sensor) becomes RUNNING; one that nobody asked for is made.
    """
    taken = connection.execute(
        """INSERT INTO drift_checks (check_id, model_id, model_version, due_at, run_id, status,
                                     requested_at, started_at)
           VALUES (%(id)s, %(model)s, %(version)s, %(due)s, %(run)s, 'running', %(now)s, %(now)s)
           ON CONFLICT (check_id) DO UPDATE
             SET status = 'running', run_id = excluded.run_id, started_at = excluded.started_at,
                 model_version = excluded.model_version
           WHERE drift_checks.status = 'pending'
           RETURNING check_id""",
        {"id": check_id, "model": model_id, "version": version, "due": due_at, "run": run_id,
         "now": now},
    ).fetchone()  # fmt: skip
    return taken is not None


def record_check(
    connection: psycopg.Connection[Any],
    result: DriftCheckResult,
    *,
    finished_at: datetime,
    audit: AuditOutbox,
    report: DriftReport | None = None,
    page: tuple[str, str] | None = None,
) -> AlertEvent | None:
    """End a check that was begun, and tell of a changed level; all in the caller's transaction.

    Writes the check, its metrics, its report ``page`` (HTML, markdown), an audit entry, and where
    the model's level changed a second audit entry and an ``alert_outbox`` row that names it.

    Returns:
        What is told, or None.
    """
    connection.execute(
        """UPDATE drift_checks
              SET status = %(status)s, finished_at = %(finished)s, duration_ms = %(duration)s,
                  alert_generated = %(alert)s, alert_level = %(level)s, reason = %(reason)s,
                  error_message = %(error)s, baseline_hash = %(hash)s, metrics = %(metrics)s
            WHERE check_id = %(id)s""",
        {"status": str(result.status), "finished": finished_at, "duration": result.duration_ms,
         "alert": result.alert_generated, "level": result.alert_level, "reason": result.reason,
         "error": result.error_message, "metrics": Jsonb(result.metrics), "id": result.check_id,
         "hash": report.baseline_hash if report else None},
    )  # fmt: skip
    if report is not None:
        _insert_metrics(connection, result.check_id, report)
    if page is not None:
        html, markdown = page
        connection.execute(
            """INSERT INTO drift_reports (check_id, html, markdown) VALUES (%s, %s, %s)
               ON CONFLICT (check_id) DO UPDATE SET html = excluded.html,
                                                    markdown = excluded.markdown""",
            (result.check_id, zlib.compress(html.encode()), markdown),
        )
    failed = result.status is ExecutionStatus.FAILED
    audit(
        connection,
        action="DRIFT_CHECK_FAILED" if failed else "DRIFT_CHECK",
        actor=ACTOR,
        resource_type="model",
        resource_id=result.model_id,
        data={**_identity(result), **result.metrics},
        details={"error": result.error_message} if failed else None,
        level="error" if failed else "info",
    )
    count_outcome(connection, result.model_id, result.status, alert=result.alert_generated)
    return _tell(connection, result, report, audit) if report is not None else None


def count_outcome(
    connection: psycopg.Connection[Any],
    model_id: str,
    status: ExecutionStatus,
    *,
    alert: bool = False,
    times: int = 1,
) -> None:
    """Add to the model's counters; also makes (and locks) its state row."""
    connection.execute(
        """INSERT INTO drift_model_state AS s (model_id, successful, failed, skipped, alerts)
           VALUES (%(model)s, %(ok)s, %(failed)s, %(skipped)s, %(alerts)s)
           ON CONFLICT (model_id) DO UPDATE
             SET successful = s.successful + excluded.successful,
                 failed = s.failed + excluded.failed,
                 skipped = s.skipped + excluded.skipped,
                 alerts = s.alerts + excluded.alerts""",
        {
            "model": model_id,
            "ok": times * (status is ExecutionStatus.COMPLETED),
            "failed": times * (status is ExecutionStatus.FAILED),
            "skipped": times * (status is ExecutionStatus.SKIPPED),
            "alerts": times * alert,
        },
    )


def _identity(result: DriftCheckResult) -> dict[str, Any]:
    return {
        "check_id": result.check_id,
        "model_version": result.model_version,
        "status": str(result.status),
    }


def _insert_metrics(
    connection: psycopg.Connection[Any], check_id: str, report: DriftReport
) -> None:
    rows = [
        (check_id, str(each.drift_type), each.name, each.value, each.level, each.sufficient,
         each.reason, Jsonb(each.details))
        for each in report.metrics
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO drift_metrics
                 (check_id, drift_type, name, value, level, sufficient, reason, details)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
               ON CONFLICT (check_id, drift_type, name) DO NOTHING""",
            rows,
        )


def _tell(
    connection: psycopg.Connection[Any],
    result: DriftCheckResult,
    report: DriftReport,
    audit: AuditOutbox,
) -> AlertEvent | None:
    """Audit entry and outbox row for a changed level; the state row orders concurrent checks."""
    row = connection.execute(
        "SELECT level FROM drift_model_state WHERE model_id = %s FOR UPDATE", (result.model_id,)
    ).fetchone()
    before = AlertLevel(row[0]) if row else None
    event = alert_event(before, report.level)
    if event is None or report.level is None:
        return None
    payload = {
        **_identity(result),
        "model_id": result.model_id,
        "event": str(event),
        "previous_level": str(before),
        "timestamp": result.timestamp,
        **report.alert(),
    }
    entry_id = audit(
        connection,
        action="DRIFT_ALERT",
        actor=ACTOR,
        resource_type="model",
        resource_id=result.model_id,
        data=payload,
        details={"severity": str(report.level)},
        level={"CRITICAL": "critical", "WARNING": "warn"}.get(str(report.level), "info"),
    )
    connection.execute(
        """UPDATE drift_model_state SET level = %s, since = now(), check_id = %s
            WHERE model_id = %s""",
        (str(report.level), result.check_id, result.model_id),
    )
    connection.execute(
        """INSERT INTO alert_outbox (source, subject_id, event, level, payload, audit_entry_id)
           VALUES ('drift', %s, %s, %s, %s, %s)""",
        (result.model_id, str(event), str(report.level), Jsonb(payload), entry_id),
    )
    return event


def abandon_check(
    connection: psycopg.Connection[Any],
    check_id: str,
    reason: str,
    *,
    now: datetime,
    audit: AuditOutbox,
) -> bool:
    """End a check whose run is gone as FAILED; False if it had ended already."""
    row = connection.execute(
        """UPDATE drift_checks SET status = 'failed', finished_at = %s, error_message = %s
            WHERE check_id = %s AND status IN ('pending', 'running')
        RETURNING model_id, model_version""",
        (now, reason, check_id),
    ).fetchone()
    if row is None:
        return False
    count_outcome(connection, row[0], ExecutionStatus.FAILED)
    audit(
        connection,
        action="DRIFT_CHECK_FAILED",
        actor=ACTOR,
        resource_type="model",
        resource_id=row[0],
        data={"check_id": check_id, "model_version": row[1], "status": "failed"},
        details={"error": reason},
        level="error",
    )
    return True
