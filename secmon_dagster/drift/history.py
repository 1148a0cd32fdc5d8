"""What was checked, and how it went: paged history and statistics from counters."""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from secmon_dagster.database import transaction
from secmon_dagster.drift.results import DriftCheckResult
from secmon_dagster.drift.vocabulary import ExecutionStatus
from secmon_dagster.errors import InvalidInputError, NotFoundError

LARGEST_PAGE = 1000


def execution_history(
    model_id: str | None = None,
    status: ExecutionStatus | None = None,
    *,
    limit: int = 50,
    before: datetime | None = None,
) -> list[DriftCheckResult]:
    """Checks, newest first; the next page begins ``before`` the last one's ``timestamp``.

    Raises:
        InvalidInputError: if ``limit`` is not 1 to 1000.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidInputError.of("limit", limit, f"1 to {LARGEST_PAGE}")
    with transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """SELECT * FROM drift_checks
                WHERE (%(model)s::text IS NULL OR model_id = %(model)s)
                  AND (%(status)s::text IS NULL OR status = %(status)s)
                  AND (%(before)s::timestamptz IS NULL OR requested_at < %(before)s)
                ORDER BY requested_at DESC, check_id LIMIT %(limit)s""",
            {
                "model": model_id,
                "status": None if status is None else str(status),
                "before": before,
                "limit": limit,
            },
        ).fetchall()
    return [_result(row) for row in rows]


def check_of(check_id: str) -> DriftCheckResult:
    """One check.

    Raises:
        NotFoundError: if there is none of that id.
    """
    with transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT * FROM drift_checks WHERE check_id = %s", (check_id,)
        ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no drift check {check_id}")
    return _result(row)


def _result(row: dict[str, Any]) -> DriftCheckResult:
    return DriftCheckResult(
        check_id=row["check_id"],
        model_id=row["model_id"],
        model_version=row["model_version"],
        timestamp=row["requested_at"].isoformat(),
        status=ExecutionStatus(row["status"]),
        duration_ms=row["duration_ms"] or 0.0,
        alert_generated=row["alert_generated"],
        alert_level=row["alert_level"],
        metrics=row["metrics"],
        error_message=row["error_message"],
        reason=row["reason"],
        due_at=None if row["due_at"] is None else row["due_at"].isoformat(),
        run_id=row["run_id"],
    )


def report_page(check_id: str) -> tuple[str, str]:
    """The HTML and the markdown of a check's report.

    Raises:
        NotFoundError: if the check has none.
    """
    with transaction() as connection:
        row = connection.execute(
            "SELECT html, markdown FROM drift_reports WHERE check_id = %s", (check_id,)
        ).fetchone()
    if row is None:
        raise NotFoundError(f"drift check {check_id} has no report")
    return zlib.decompress(row[0]).decode(), str(row[1])


def statistics() -> dict[str, Any]:
    """Totals over all models, from the counters; the rate is a percentage of one decimal."""
    with transaction() as connection:
        row = connection.execute(
            """SELECT (SELECT count(*) FROM drift_models),
                      (SELECT count(*) FROM drift_models WHERE enabled),
                      coalesce(sum(successful), 0)::bigint, coalesce(sum(failed), 0)::bigint,
                      coalesce(sum(skipped), 0)::bigint, coalesce(sum(alerts), 0)::bigint
                 FROM drift_model_state"""
        ).fetchone()
    models, enabled, successful, failed, skipped, alerts = row or (0, 0, 0, 0, 0, 0)
    executed = successful + failed
    return {
        "total_models_configured": models,
        "total_models_enabled": enabled,
        "total_executions": executed,
        "successful_executions": successful,
        "failed_executions": failed,
        "skipped_executions": skipped,
        "alerts_generated": alerts,
        "success_rate": round(100 * successful / executed, 1) if executed else 0.0,
    }
