"""What the six checks look at: an instance's last day, read in a handful of queries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.posture.layers import SecurityLayer
from secmon_dagster.posture.records import AgentInstance, Violation
from secmon_dagster.posture.scanning import PromptDetector, scan_output, scan_prompt
from secmon_dagster.posture.session import Connection
from secmon_dagster.posture.store import (
    fetch,
    fetch_one,
    layer_of_instance,
    require_instance,
    violation_of,
)

# Bounds keep a check's cost independent of how long an instance has lived. Older acts are history,
# not evidence for today.
MAX_ACTS = 500
MAX_TEXTS = 200
WINDOW = "24 hours"


@dataclass(frozen=True, slots=True)
class Act:
    """A row of ``instance_activities`` as the checks read it."""

    activity_id: int
    at: datetime
    source: str
    action: str
    auth_method: str | None
    key_id: str | None
    auth_error: str | None
    denied: bool
    throttled: bool
    schema_checked: bool
    schema_error: str | None
    workflow_id: str | None


@dataclass(frozen=True, slots=True)
class ScannedText:
    """An act's texts after scanning; findings name the place and the kind, never the text."""

    activity_id: int
    has_prompt: bool
    has_output: bool
    findings: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key that acted for the instance: until when it held, and for whom else it acted."""

    key_id: str
    known: bool
    bound_to: str | None
    ended_at: datetime | None
    other_instances: int


@dataclass(frozen=True, slots=True)
class Peak:
    """Most acts in any 60 seconds, and among how many acts."""

    most: int
    acts: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the checks look at, so that they are pure.

    Attributes:
        acts: the newest :data:`MAX_ACTS` of the last :data:`WINDOW`, newest first.
        foreign_workflows: of the workflows the acts name, those of another owner.
        valid_inputs: inputs of workflow executions that were held against a schema.
    """

    instance: AgentInstance
    layer: SecurityLayer | None
    acts: list[Act]
    texts: list[ScannedText]
    keys: dict[str, KeyUse]
    peak: Peak
    foreign_workflows: frozenset[str]
    valid_inputs: int
    violations: list[Violation]


def gather(
    connection: Connection, instance_id: str, detector: PromptDetector | None = None
) -> Evidence:
    """Read the evidence; texts nobody has scanned yet are scanned and the findings kept.

    Raises:
        NotFoundError: no such instance.
    """
    instance = require_instance(connection, instance_id)
    layer = layer_of_instance(connection, instance_id)
    acts = [
        Act(**row)
        for row in fetch(
            connection,
            "SELECT activity_id, at, source, action, auth_method, key_id, auth_error, denied, "
            "throttled, schema_checked, schema_error, details ->> 'workflow_id' AS workflow_id "
            "FROM instance_activities WHERE instance_id = %s AND at > now() - %s::interval "
            "ORDER BY activity_id DESC LIMIT %s",
            instance_id,
            WINDOW,
            MAX_ACTS,
        )
    ]
    violations = fetch(
        connection,
        "SELECT * FROM security_violations WHERE instance_id = %s AND at > now() - %s::interval "
        "ORDER BY at DESC LIMIT %s",
        instance_id,
        WINDOW,
        MAX_ACTS,
    )
    return Evidence(
        instance=instance,
        layer=layer,
        acts=acts,
        texts=_texts(connection, instance_id, detector),
        keys=_keys(connection, instance_id, {act.key_id for act in acts if act.key_id}),
        peak=_peak(connection, instance_id, layer),
        foreign_workflows=_foreign_workflows(connection, instance, acts),
        valid_inputs=_valid_inputs(connection, instance_id),
        violations=[violation_of(row) for row in violations],
    )


def _texts(
    connection: Connection, instance_id: str, detector: PromptDetector | None
) -> list[ScannedText]:
    rows = fetch(
        connection,
        "SELECT activity_id, prompt IS NOT NULL AS has_prompt, output IS NOT NULL AS has_output, "
        "findings, CASE WHEN findings IS NULL THEN prompt END AS prompt, "
        "CASE WHEN findings IS NULL THEN output END AS output "
        "FROM instance_activities WHERE instance_id = %s AND (prompt IS NOT NULL OR output IS NOT "
        "NULL) AND at > now() - %s::interval ORDER BY activity_id DESC LIMIT %s",
        instance_id,
        WINDOW,
        MAX_TEXTS,
    )
    scanned, updates = [], []
    for row in rows:
        findings = row["findings"]
        if findings is None:
            # Written by another hand than ours, which scans at once.
            found = scan_prompt(row["prompt"], detector) if row["prompt"] else []
            found += scan_output(row["output"]) if row["output"] else []
            findings = [finding.as_dict() for finding in found]
            updates.append((Jsonb(findings), row["activity_id"]))
        scanned.append(
            ScannedText(row["activity_id"], row["has_prompt"], row["has_output"], findings)
        )
    if updates:
        with connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE instance_activities SET findings = %s WHERE activity_id = %s", updates
            )
    return scanned


def _keys(connection: Connection, instance_id: str, key_ids: set[str]) -> dict[str, KeyUse]:
    if not key_ids:
        return {}
    rows = fetch(
        connection,
        "SELECT u.key_id, k.key_id IS NOT NULL AS known, k.instance_id AS bound_to, "
        "least(k.revoked_at, k.expires_at) AS ended_at, "
        "(SELECT count(*) FROM (SELECT DISTINCT a.instance_id FROM instance_activities a "
        " WHERE a.key_id = u.key_id AND a.source = 'instance' AND a.instance_id <> %s "
        " AND a.at > now() - %s::interval LIMIT 100) o) AS other_instances "
        "FROM unnest(%s::text[]) AS u (key_id) LEFT JOIN api_keys k USING (key_id)",
        instance_id,
        WINDOW,
        list(key_ids),
    )
    return {row["key_id"]: KeyUse(**row) for row in rows}


def _peak(connection: Connection, instance_id: str, layer: SecurityLayer | None) -> Peak:
    """Most acts in any minute among the newest ones; more than twice the limit needn't be seen."""
    limit = 60 if layer is None else layer.config.max_requests_per_minute
    row = fetch_one(
        connection,
        "SELECT coalesce(max(n), 0) AS most, count(*) AS acts FROM (SELECT count(*) OVER (ORDER BY "
        "at RANGE BETWEEN interval '59.999999 seconds' PRECEDING AND CURRENT ROW) AS n "
        "FROM (SELECT at FROM instance_activities WHERE instance_id = %s AND source = 'instance' "
        "AND NOT throttled AND at > now() - %s::interval ORDER BY activity_id DESC LIMIT %s) a) w",
        instance_id,
        WINDOW,
        max(MAX_ACTS, 2 * limit),
    )
    assert row is not None
    return Peak(row["most"], row["acts"])


def _foreign_workflows(
    connection: Connection, instance: AgentInstance, acts: list[Act]
) -> frozenset[str]:
    named = {act.workflow_id for act in acts if act.workflow_id and act.source == "instance"}
    if not named:
        return frozenset()
    # What can't be seen in this session is another's too, or nobody's.
    rows = fetch(
        connection,
        "SELECT workflow_id FROM agent_workflows WHERE workflow_id = ANY(%s) AND owner_id <> %s",
        list(named),
        instance.owner_id,
    )
    return frozenset(row["workflow_id"] for row in rows)


def _valid_inputs(connection: Connection, instance_id: str) -> int:
    row = fetch_one(
        connection,
        "SELECT count(*) AS n FROM (SELECT FROM workflow_executions e JOIN agent_workflows w "
        "USING (workflow_id) WHERE e.instance_id = %s AND w.input_schema IS NOT NULL "
        "AND e.started_at > now() - %s::interval LIMIT 100) e",
        instance_id,
        WINDOW,
    )
    assert row is not None
    return int(row["n"])
