"""What the six checks look at: the last day of instances, read in a handful of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.posture.layers import SecurityLayer
from secmon_dagster.posture.records import AgentInstance, Violation
from secmon_dagster.posture.scanning import PromptDetector, scan_output, scan_prompt
from secmon_dagster.posture.score import CheckType
from secmon_dagster.posture.session import Connection
from secmon_dagster.posture.store import Row, fetch, instance_of, layer_of, violation_of

# Bounds keep a check's cost independent of how long an instance has lived. Older acts are history,
# not evidence for today.
MAX_ACTS = 500
MAX_TEXTS = 200
WINDOW = "24 hours"
_NEWEST_ACTS = "at DESC, activity_id DESC"
# What an instance without a layer is measured by, which is the default layer's.
_WITHOUT_LAYER = 60


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
        keys: those its acts carried; for whom else one acts is told from its newest
            :data:`MAX_ACTS` acts.
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
    connection: Connection, instance_ids: Sequence[str], detector: PromptDetector | None = None
) -> list[Evidence]:
    """Read the evidence of instances that exist, in as many queries for many as for one.

    Their profiles stay locked until the transaction ends: a violation that is noted meanwhile
    waits, so that no result from before it is stored after it. Texts nobody has scanned yet are
    scanned and the findings kept.
    """
    ids = list(instance_ids)
    instances = [
        instance_of(row)
        for row in fetch(
            connection,
            "SELECT i.* FROM unnest(%s::text[]) WITH ORDINALITY AS u (instance_id, place) "
            "JOIN agent_instances i USING (instance_id) ORDER BY place",
            ids,
        )
    ]
    layers = _layers(connection, ids)
    acts = {
        key: [Act(**row) for row in rows]
        for key, rows in _newest(
            connection,
            ids,
            "activity_id, at, source, action, auth_method, key_id, auth_error, denied, throttled, "
            "schema_checked, schema_error, details ->> 'workflow_id' AS workflow_id",
            "instance_activities",
            _NEWEST_ACTS,
            MAX_ACTS,
        ).items()
    }
    violations = _violations(connection, ids)
    texts = _texts(connection, ids, detector)
    keys = _keys(connection, acts)
    peaks = _peaks(connection, ids, layers)
    owners = _owners_of_workflows(connection, acts)
    inputs = _valid_inputs(connection, ids)
    return [
        Evidence(
            instance=instance,
            layer=layers.get(instance.instance_id),
            acts=acts.get(instance.instance_id, []),
            texts=texts.get(instance.instance_id, []),
            keys=keys.get(instance.instance_id, {}),
            peak=peaks[instance.instance_id],
            foreign_workflows=frozenset(
                name
                for name, owner in owners.get(instance.instance_id, {}).items()
                if owner != instance.owner_id
            ),
            valid_inputs=inputs.get(instance.instance_id, 0),
            violations=violations.get(instance.instance_id, []),
        )
        for instance in instances
    ]


def _newest(
    connection: Connection,
    ids: list[str],
    columns: str,
    table: str,
    order: str,
    most: int,
    condition: str = "TRUE",
) -> dict[str, list[Row]]:
    """The newest ``most`` rows of the last :data:`WINDOW` for each instance, newest first.

    One probe of the index an instance; ``columns``, ``table`` and the like are this module's own.
    """
    found = fetch(
        connection,
        f"SELECT u.instance_id AS whose, r.* FROM unnest(%s::text[]) AS u (instance_id) "  # noqa: S608
        f"CROSS JOIN LATERAL (SELECT {columns} FROM {table} t "
        f"WHERE t.instance_id = u.instance_id AND t.at > now() - %s::interval AND {condition} "
        f"ORDER BY {order} LIMIT %s) r ORDER BY {order}",
        ids,
        WINDOW,
        most,
    )
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        grouped[row.pop("whose")].append(row)
    return grouped


def _layers(connection: Connection, ids: list[str]) -> dict[str, SecurityLayer]:
    """The layer of each instance that has one. All lock in one order, so none waits in a circle."""
    rows = fetch(
        connection,
        "SELECT p.instance_id AS whose, l.* FROM security_profiles p JOIN security_layers l "
        "USING (layer_id) WHERE p.instance_id = ANY(%s) ORDER BY p.instance_id FOR UPDATE OF p",
        ids,
    )
    return {row["whose"]: layer_of(row) for row in rows}


def _violations(connection: Connection, ids: list[str]) -> dict[str, list[Violation]]:
    """The worst :data:`MAX_ACTS` of each check: any number of slight ones hides no grave one."""
    rows = fetch(
        connection,
        "SELECT r.* FROM unnest(%s::text[]) AS u (instance_id) "
        "CROSS JOIN unnest(%s::text[]) AS t (check_type) CROSS JOIN LATERAL ("
        "SELECT * FROM security_violations v WHERE v.instance_id = u.instance_id "
        "AND v.check_type = t.check_type AND v.at > now() - %s::interval "
        "ORDER BY severity DESC, at DESC LIMIT %s) r",
        ids,
        list(CheckType),
        WINDOW,
        MAX_ACTS,
    )
    grouped: dict[str, list[Violation]] = defaultdict(list)
    for row in rows:
        grouped[row["instance_id"]].append(violation_of(row))
    return grouped


def _texts(
    connection: Connection, ids: list[str], detector: PromptDetector | None
) -> dict[str, list[ScannedText]]:
    found = _newest(
        connection,
        ids,
        "activity_id, at, prompt IS NOT NULL AS has_prompt, output IS NOT NULL AS has_output, "
        "findings, CASE WHEN findings IS NULL THEN prompt END AS prompt, "
        "CASE WHEN findings IS NULL THEN output END AS output",
        "instance_activities",
        _NEWEST_ACTS,
        MAX_TEXTS,
        "(prompt IS NOT NULL OR output IS NOT NULL)",
    )
    new: dict[int, list[dict[str, Any]]] = {}
    scanned: dict[str, list[ScannedText]] = defaultdict(list)
    for whose, rows in found.items():
        for row in rows:
            findings = row["findings"]
            if findings is None:
                # Written by another hand than ours, which scans at once.
                seen = scan_prompt(row["prompt"], detector) if row["prompt"] else []
                seen += scan_output(row["output"]) if row["output"] else []
                findings = new[row["activity_id"]] = [finding.as_dict() for finding in seen]
            scanned[whose].append(
                ScannedText(row["activity_id"], row["has_prompt"], row["has_output"], findings)
            )
    if new:
        connection.execute(
            "UPDATE instance_activities a SET findings = u.findings "
            "FROM unnest(%s::bigint[], %s::jsonb[]) AS u (activity_id, findings) "
            "WHERE a.activity_id = u.activity_id",
            (list(new), [Jsonb(findings) for findings in new.values()]),
        )
    return scanned


def _keys(connection: Connection, acts: Mapping[str, list[Act]]) -> dict[str, dict[str, KeyUse]]:
    used = {key: {act.key_id for act in own if act.key_id} for key, own in acts.items()}
    named = sorted(set().union(*used.values()))
    if not named:
        return {}
    rows = fetch(
        connection,
        "SELECT u.key_id, k.key_id IS NOT NULL AS known, k.instance_id AS bound_to, "
        "least(k.revoked_at, k.expires_at) AS ended_at, "
        "ARRAY(SELECT DISTINCT a.instance_id FROM (SELECT instance_id FROM instance_activities a "
        " WHERE a.key_id = u.key_id AND a.source = 'instance' AND a.at > now() - %s::interval "
        " ORDER BY a.at DESC LIMIT %s) a) AS acted_for "
        "FROM unnest(%s::text[]) AS u (key_id) LEFT JOIN api_keys k USING (key_id)",
        WINDOW,
        MAX_ACTS,
        named,
    )
    known = {row["key_id"]: row for row in rows}
    return {
        whose: {
            key: KeyUse(
                key_id=key,
                known=known[key]["known"],
                bound_to=known[key]["bound_to"],
                ended_at=known[key]["ended_at"],
                other_instances=len(set(known[key]["acted_for"]) - {whose}),
            )
            for key in keys
        }
        for whose, keys in used.items()
    }


def _peaks(
    connection: Connection, ids: list[str], layers: Mapping[str, SecurityLayer]
) -> dict[str, Peak]:
    """Most acts in any minute among the newest ones; more than twice the limit needn't be seen."""
    limits = [
        layers[key].config.max_requests_per_minute if key in layers else _WITHOUT_LAYER
        for key in ids
    ]
    rows = fetch(
        connection,
        "SELECT u.instance_id, p.most, p.acts FROM unnest(%s::text[], %s::int[]) "
        "AS u (instance_id, enough) CROSS JOIN LATERAL ("
        "SELECT coalesce(max(n), 0) AS most, count(*) AS acts FROM (SELECT count(*) OVER (ORDER BY "
        "at RANGE BETWEEN interval '59.999999 seconds' PRECEDING AND CURRENT ROW) AS n "
        "FROM (SELECT at FROM instance_activities t WHERE t.instance_id = u.instance_id "
        "AND source = 'instance' AND NOT throttled AND at > now() - %s::interval "
        "ORDER BY at DESC, activity_id DESC LIMIT u.enough) a) w) p",
        ids,
        [max(MAX_ACTS, 2 * limit) for limit in limits],
        WINDOW,
    )
    return {row["instance_id"]: Peak(row["most"], row["acts"]) for row in rows}


def _owners_of_workflows(
    connection: Connection, acts: Mapping[str, list[Act]]
) -> dict[str, dict[str, str]]:
    """Of the workflows each instance's acts name, the owners of those there are."""
    named = {
        whose: {act.workflow_id for act in own if act.workflow_id and act.source == "instance"}
        for whose, own in acts.items()
    }
    wanted = sorted(set().union(*named.values()))
    if not wanted:
        return {}
    rows = fetch(
        connection,
        "SELECT workflow_id, owner_id FROM agent_workflows WHERE workflow_id = ANY(%s)",
        wanted,
    )
    owners = {row["workflow_id"]: row["owner_id"] for row in rows}
    return {
        whose: {name: owners[name] for name in names if name in owners}
        for whose, names in named.items()
    }


def _valid_inputs(connection: Connection, ids: list[str]) -> dict[str, int]:
    rows = fetch(
        connection,
        "SELECT u.instance_id, n.count FROM unnest(%s::text[]) AS u (instance_id) "
        "CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT FROM workflow_executions e "
        "JOIN agent_workflows w USING (workflow_id) WHERE e.instance_id = u.instance_id "
        "AND w.input_schema IS NOT NULL AND e.started_at > now() - %s::interval LIMIT 100) e) n",
        ids,
        WINDOW,
    )
    return {row["instance_id"]: row["count"] for row in rows}
