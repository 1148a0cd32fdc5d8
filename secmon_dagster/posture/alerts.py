"""Alerts on a score that fell into a lower band."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from secmon_dagster.audit import enqueue
from secmon_dagster.posture.score import Band, is_lower
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import fetch


def alert_falls(after: int) -> int:
    """Put an alert into the outbox for each fall behind step ``after`` of the history.

    The alert, its audit entry and their ids belong together: told again for the same step, it is
    the same alert.

    Returns:
        The last step looked at.
    """
    session = Session.open(actor="posture_rules")
    with session.begin() as connection:
        rows = fetch(
            connection,
            "SELECT h.*, i.name FROM security_score_history h JOIN agent_instances i "
            "USING (instance_id) WHERE score_id > %s ORDER BY score_id LIMIT 1000",
            after,
        )
        for row in rows:
            after = row["score_id"]
            if row["previous"] is None or not is_lower(Band(row["status"]), Band(row["previous"])):
                continue
            alert_id = f"score-{row['score_id']}"
            known = connection.execute(
                "SELECT FROM alert_outbox WHERE alert_id = %s", (alert_id,)
            ).fetchone()
            if known is not None:
                continue
            level = "CRITICAL" if row["status"] == Band.COMPROMISED else "WARNING"
            entry_id = enqueue(
                connection,
                action="score_fell",
                actor=session.actor,
                resource_type="agent_instance",
                resource_id=row["instance_id"],
                details={
                    "score": float(row["score"]),
                    "band": row["status"],
                    "previous": row["previous"],
                    "cause": row["cause"],
                },
                level="critical" if level == "CRITICAL" else "warn",
            )
            connection.execute(
                "INSERT INTO alert_outbox (alert_id, source, subject_id, event, level, payload, "
                "audit_entry_id) VALUES (%s, 'posture', %s, 'lowered', %s, %s, %s)",
                (
                    alert_id,
                    row["instance_id"],
                    level,
                    Jsonb(
                        {
                            "name": row["name"],
                            "score": float(row["score"]),
                            "band": row["status"],
                            "previous": row["previous"],
                            "cause": row["cause"],
                        }
                    ),
                    entry_id,
                ),
            )
    return int(after)
