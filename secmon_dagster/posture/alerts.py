"""Alerts on a score that fell into a lower band."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.types.json import Jsonb

from secmon_dagster.posture.records import ScorePoint
from secmon_dagster.posture.score import Band, is_lower
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import require_instance


def alert_falls(session: Session, connection: Connection, points: Mapping[str, ScorePoint]) -> None:
    """Put an alert into the outbox for each step into a lower band.

    In the transaction of the step: a reader that follows the history by its ids would miss a step
    that is committed after a later one.

    Args:
        points: new steps by instance.
    """
    for instance_id, point in points.items():
        if point.previous is None or not is_lower(point.status, point.previous):
            continue
        level = "CRITICAL" if point.status is Band.COMPROMISED else "WARNING"
        fall = {
            "score": point.score,
            "band": point.status,
            "previous": point.previous,
            "cause": point.cause,
        }
        entry_id = session.record(
            connection,
            "score_fell",
            "agent_instance",
            resource_id=instance_id,
            details=fall,
            level="critical" if level == "CRITICAL" else "warn",
        )
        name = require_instance(connection, instance_id).name
        connection.execute(
            "INSERT INTO alert_outbox (source, subject_id, event, level, payload, audit_entry_id) "
            "VALUES ('posture', %s, 'lowered', %s, %s, %s)",
            (instance_id, level, Jsonb({"name": name, **fall}), entry_id),
        )
