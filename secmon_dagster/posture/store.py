"""Reading and writing the posture tables: rows in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb, set_json_loads

from secmon_dagster.errors import NotFoundError
from secmon_dagster.posture.layers import LayerConfig, MonitoringMode, SecurityLayer
from secmon_dagster.posture.records import (
    AgentInstance,
    InstanceProfile,
    ScorePoint,
    SecurityCheck,
    Violation,
)
from secmon_dagster.posture.score import (
    Band,
    CheckResult,
    CheckStatus,
    CheckType,
    Severity,
    band,
    score,
)
from secmon_dagster.posture.session import Connection

Row = dict[str, Any]


def fetch(connection: Connection, query: str, *parameters: object) -> list[Row]:
    """All rows of ``query``, as dicts."""
    with connection.cursor(row_factory=dict_row) as cursor:
        # jsonb writes 1e300 as an integer of 300 digits; orjson reads it back as the float it was.
        set_json_loads(orjson.loads, cursor)
        return cursor.execute(query.encode(), parameters).fetchall()


def fetch_one(connection: Connection, query: str, *parameters: object) -> Row | None:
    """The first row of ``query``."""
    rows = fetch(connection, query, *parameters)
    return rows[0] if rows else None


def layer_of(row: Mapping[str, Any]) -> SecurityLayer:
    """A layer from its row."""
    return SecurityLayer(
        layer_id=row["layer_id"],
        name=row["name"],
        description=row["description"],
        config=LayerConfig.of(row["config"]),
        monitoring_mode=MonitoringMode(row["monitoring_mode"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
    )


def instance_of(row: Mapping[str, Any]) -> AgentInstance:
    """An instance from its row."""
    return AgentInstance(**row)


def profile_of(row: Mapping[str, Any]) -> InstanceProfile:
    """A profile from its row."""
    return InstanceProfile(
        **{
            **row,
            "security_score": float(row["security_score"]),
            "status": Band(row["status"]),
        }
    )


def check_of(row: Mapping[str, Any]) -> SecurityCheck:
    """A check's result from its row."""
    return SecurityCheck(
        **{
            **row,
            "check_type": CheckType(row["check_type"]),
            "status": CheckStatus(row["status"]),
            "severity": Severity(row["severity"]),
        }
    )


def violation_of(row: Mapping[str, Any]) -> Violation:
    """A violation from its row."""
    return Violation(
        **{
            **{name: value for name, value in row.items() if name != "source_id"},
            "check_type": CheckType(row["check_type"]),
            "severity": Severity(row["severity"]),
        }
    )


def score_point_of(row: Mapping[str, Any]) -> ScorePoint:
    """A step of the score from its row."""
    return ScorePoint(
        score=float(row["score"]),
        status=Band(row["status"]),
        previous=None if row["previous"] is None else Band(row["previous"]),
        cause=row["cause"],
        at=row["at"],
    )


def require_instance(connection: Connection, instance_id: str) -> AgentInstance:
    """The instance, or :class:`NotFoundError` when there is none the session may see."""
    row = fetch_one(connection, "SELECT * FROM agent_instances WHERE instance_id = %s", instance_id)
    if row is None:
        raise NotFoundError(f"There is no agent instance {instance_id!r}")
    return instance_of(row)


def layer_of_instance(connection: Connection, instance_id: str) -> SecurityLayer | None:
    """The layer an instance is under; None before one was attached."""
    row = fetch_one(
        connection,
        "SELECT l.* FROM security_layers l JOIN security_profiles p USING (layer_id) "
        "WHERE p.instance_id = %s",
        instance_id,
    )
    return None if row is None else layer_of(row)


def insert_checks(
    connection: Connection, results: Mapping[str, Sequence[CheckResult]]
) -> dict[str, list[SecurityCheck]]:
    """Store results by instance, in one statement."""
    flat = [(instance_id, result) for instance_id, own in results.items() for result in own]
    rows = fetch(
        connection,
        "INSERT INTO security_checks (instance_id, check_type, status, severity, description, "
        "details) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::check_severity[], "
        "%s::text[], %s::jsonb[]) RETURNING *",
        [instance_id for instance_id, _ in flat],
        [result.check_type for _, result in flat],
        [result.status for _, result in flat],
        [result.severity for _, result in flat],
        [result.description for _, result in flat],
        [Jsonb(result.details) for _, result in flat],
    )
    stored: dict[str, list[SecurityCheck]] = {instance_id: [] for instance_id in results}
    for row in rows:
        stored[row["instance_id"]].append(check_of(row))
    return stored


def latest_statuses(connection: Connection, instance_id: str) -> dict[CheckType, CheckStatus]:
    """The latest result of each check type."""
    # One index probe a type: the table keeps every result ever made.
    rows = fetch(
        connection,
        "SELECT t.check_type, c.status FROM unnest(%s::text[]) AS t (check_type) "
        "CROSS JOIN LATERAL (SELECT status FROM security_checks c WHERE c.instance_id = %s "
        "AND c.check_type = t.check_type ORDER BY checked_at DESC LIMIT 1) c",
        list(CheckType),
        instance_id,
    )
    return {CheckType(row["check_type"]): CheckStatus(row["status"]) for row in rows}


def refresh_score(connection: Connection, instance_id: str, cause: str) -> ScorePoint | None:
    """Recompute the score from the latest results and keep it in the history.

    Returns:
        The new step; None for an instance without a profile, which has no score.
    """
    value = score(latest_statuses(connection, instance_id))
    return set_scores(connection, {instance_id: value}, cause).get(instance_id)


def set_scores(
    connection: Connection, scores: Mapping[str, float], cause: str
) -> dict[str, ScorePoint]:
    """Give instances their scores and keep each in the history, in one statement.

    Returns:
        The new steps by instance; none for an instance without a profile.
    """
    values = {instance_id: round(value, 2) for instance_id, value in scores.items()}
    rows = fetch(
        connection,
        "WITH new AS (SELECT * FROM unnest(%s::text[], %s::numeric[], %s::text[]) "
        "AS n (instance_id, score, status)), "
        "before AS (SELECT p.instance_id, p.status FROM security_profiles p JOIN new "
        "USING (instance_id) ORDER BY p.instance_id FOR UPDATE OF p), "
        "after AS (UPDATE security_profiles p SET security_score = n.score, status = n.status, "
        "updated_at = clock_timestamp() FROM new n JOIN before b USING (instance_id) "
        "WHERE p.instance_id = n.instance_id "
        "RETURNING p.instance_id, p.security_score, p.status, b.status AS previous) "
        "INSERT INTO security_score_history (instance_id, score, status, previous, cause) "
        "SELECT instance_id, security_score, status, previous, %s FROM after RETURNING *",
        list(values),
        list(values.values()),
        [band(value) for value in values.values()],
        cause,
    )
    return {row["instance_id"]: score_point_of(row) for row in rows}
