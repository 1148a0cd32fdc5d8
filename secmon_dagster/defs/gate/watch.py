"""Sensors that watch the gate: what it blocked, and what somebody approved."""

from typing import Any

import dagster as dg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.gate.history import verdict_of

PAGE = 100


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Shows each blocked artifact as an observation and puts it into the alert outbox.",
)
def blocked_artifacts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Reads on from the last id it has seen; the first tick begins at what happens from then on."""
    with transaction() as connection:
        if context.cursor is None:
            (newest,) = _first(connection.execute("SELECT max(id) FROM monitoring_history"))
            context.update_cursor(str(newest or 0))
            return dg.SkipReason("watching from now on")
        rows = (
            connection.cursor(row_factory=dict_row)
            .execute(
                "SELECT * FROM monitoring_history "
                "WHERE id > %s AND action_taken IN ('blocked', 'error') ORDER BY id LIMIT %s",
                (int(context.cursor), PAGE),
            )
            .fetchall()
        )
        for row in rows:
            _tell(connection, row)
    if not rows:
        return dg.SkipReason("nothing was blocked")
    return dg.SensorResult(
        asset_events=[_observation(row) for row in rows], cursor=str(rows[-1]["id"])
    )


def _first(cursor: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()
    return row


def _tell(connection: Any, row: dict[str, Any]) -> None:
    connection.execute(
        """
        INSERT INTO alert_outbox
          (alert_id, source, subject_id, event, level, payload, audit_entry_id)
        VALUES (%s, 'gate', %s, 'raised', 'CRITICAL', %s, %s) ON CONFLICT DO NOTHING
        """,
        (
            f"gate-{row['check_id']}",
            row["artifact_id"],
            Jsonb(
                {
                    "artifact_id": row["artifact_id"],
                    "action": row["action_taken"],
                    "script_name": row["script_name"],
                    "exit_code": row["exit_code"],
                    "check_id": row["check_id"],
                    "rules": sorted({str(f.get("rule", "")) for f in row["findings"]}),
                }
            ),
            row["entry_id"],
        ),
    )


def _observation(row: dict[str, Any]) -> dg.AssetObservation:
    verdict = verdict_of(row)
    return dg.AssetObservation(
        asset_key=["artifacts", verdict.result.artifact_id],
        description=f"{verdict.action} by {verdict.result.script_name}",
        metadata={
            "check_id": verdict.check_id,
            "exit_code": verdict.result.exit_code,
            "findings": dg.MetadataValue.json([dict(found) for found in verdict.findings]),
            "isolation": str(verdict.result.isolation),
        },
    )


@dg.sensor(
    asset_selection=dg.AssetSelection.all(),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Releases a model that waited for an approval, once somebody has given it.",
)
def granted_approvals(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One run a granted approval, keyed by it: two daemons don't release twice."""
    with transaction() as connection:
        rows = connection.execute(
            """
            SELECT a.id, m.model_id, a.decided_by
              FROM approvals a JOIN models m USING (artifact_id)
             WHERE a.state = 'approved' AND a.expires_at > clock_timestamp()
               AND m.released_at IS NULL
             ORDER BY a.decided_at LIMIT %s
            """,
            (PAGE,),
        ).fetchall()
    if not rows:
        return dg.SkipReason("no unreleased model has a fresh approval")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"approval:{approval_id}",
                asset_selection=[
                    dg.AssetKey([model_id, "release"]),
                    dg.AssetKey([model_id, "drift_baseline"]),
                ],
                tags={"secmon/approval": approval_id, "secmon/user": decided_by},
            )
            for approval_id, model_id, decided_by in rows
        ]
    )
