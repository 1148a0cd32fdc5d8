"""An act of an instance, held against the rules of its layer and kept as evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.errors import PermissionDeniedError, RateLimitedError, SecmonError
from secmon_dagster.posture.layers import MonitoringMode, SecurityLayer
from secmon_dagster.posture.records import Activity, AgentInstance, Credential
from secmon_dagster.posture.scanning import (
    Finding,
    PromptDetector,
    redact,
    redact_json,
    scan_output,
    scan_prompt,
    worst,
)
from secmon_dagster.posture.schemas import violation_of
from secmon_dagster.posture.score import Severity
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import fetch_one
from secmon_dagster.posture.violations import note_violation


class RefusedActError(PermissionDeniedError):
    """A strict layer refuses the act. What was seen of it is kept."""

    problem_type = "act-refused"


class ThrottledError(RateLimitedError):
    """The instance is over the rate of its layer. That it tried is kept."""

    problem_type = "instance-throttled"


# Errors whose evidence must be committed although the caller is refused.
KEEPS_EVIDENCE = (RefusedActError, ThrottledError)


@dataclass(frozen=True, slots=True)
class LoggedActivity:
    """What became of a reported act.

    Attributes:
        activity_id: its row; None when the layer keeps only conspicuous acts and this is none.
        warnings: what was wrong with it, in words.
    """

    activity_id: int | None
    instance_id: str
    action: str
    at: datetime | None
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Offence:
    """A rule an act breaks."""

    violation_type: str
    severity: Severity
    description: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say to an act; pure, so it is known before anything is written."""

    findings: list[Finding]
    schema_checked: bool
    schema_error: str | None
    offences: list[Offence]


def judge(
    instance: AgentInstance, activity: Activity, detector: PromptDetector | None
) -> Judgement:
    """Hold an act against the scopes, schemas and text rules of its instance."""
    findings = scan_prompt(activity.prompt, detector) if activity.prompt else []
    findings += scan_output(activity.output) if activity.output else []
    schema = instance.activity_schemas.get(activity.action)
    schema_error = None if schema is None else violation_of(schema, activity.details)
    offences = []
    if instance.scopes is not None and activity.action not in instance.scopes:
        offences.append(
            Offence(
                "out_of_scope",
                Severity.HIGH,
                f"{activity.action!r} is outside the declared scopes",
            )
        )
    if schema_error is not None:
        offences.append(
            Offence("invalid_data", Severity.MEDIUM, f"details break their schema: {schema_error}")
        )
    for where, kind in (("prompt", "unsafe_prompt"), ("output", "unsafe_output")):
        there = [finding for finding in findings if finding.where == where]
        severity = worst(there)
        if severity is not None:
            names = sorted({f"{finding.kind} ({finding.name})" for finding in there})
            offences.append(Offence(kind, severity, f"{where} holds {', '.join(names)}"))
    return Judgement(findings, schema is not None, schema_error, offences)


def log_activity(
    session: Session,
    connection: Connection,
    instance: AgentInstance,
    layer: SecurityLayer | None,
    activity: Activity,
    credential: Credential,
    detector: PromptDetector | None,
) -> tuple[LoggedActivity, SecmonError | None]:
    """Throttle, judge and keep one act.

    Returns:
        What was logged, and the error to raise once the transaction is committed: a refusal must
        not undo its own evidence.
    """
    mode = MonitoringMode.PASSIVE if layer is None else layer.monitoring_mode
    if layer is not None:
        over = _over_rate(session, connection, instance, layer, activity.action, credential)
        if over is not None and mode is not MonitoringMode.PASSIVE:
            return LoggedActivity(None, instance.instance_id, activity.action, None, []), over
    judgement = judge(instance, activity, detector)
    refused = bool(judgement.offences) and mode is MonitoringMode.STRICT
    kept = layer is None or layer.config.log_all_activities or bool(judgement.offences)
    row = (
        insert_activity(connection, instance.instance_id, activity, credential, judgement, refused)
        if kept
        else None
    )
    for offence in judgement.offences:
        note_violation(
            session,
            connection,
            instance.instance_id,
            layer,
            offence.violation_type,
            offence.severity,
            offence.description,
            {"activity_id": None if row is None else row["activity_id"], "action": activity.action},
        )
    warnings = [offence.description for offence in judgement.offences]
    logged = LoggedActivity(
        activity_id=None if row is None else row["activity_id"],
        instance_id=instance.instance_id,
        action=activity.action,
        at=None if row is None else row["at"],
        warnings=warnings,
    )
    if refused:
        return logged, RefusedActError(
            f"The layer {layer.name if layer else ''!r} refuses this act: {'; '.join(warnings)}",
            reasons=warnings,
        )
    return logged, None


def insert_activity(
    connection: Connection,
    instance_id: str,
    activity: Activity,
    credential: Credential,
    judgement: Judgement | None = None,
    denied: bool = False,
    *,
    throttled: bool = False,
    platform: bool = False,
) -> Mapping[str, Any]:
    """Keep one act, with its secrets taken out.

    Args:
        judgement: None for an act that isn't judged, because it was refused before or is the
            platform's own.
    """
    row = fetch_one(
        connection,
        "INSERT INTO instance_activities (instance_id, source, action, details, prompt, output, "
        "auth_method, key_id, auth_error, denied, throttled, schema_checked, schema_error, "
        "findings) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "RETURNING activity_id, at",
        instance_id,
        "platform" if platform else "instance",
        activity.action,
        Jsonb(redact_json(activity.details)),
        _storable(activity.prompt),
        _storable(activity.output),
        credential.method,
        credential.key_id,
        credential.error,
        denied,
        throttled,
        judgement is not None and judgement.schema_checked,
        None if judgement is None else judgement.schema_error,
        None if judgement is None else Jsonb([f.as_dict() for f in judgement.findings]),
    )
    assert row is not None
    return row


def _storable(text: str | None) -> str | None:
    # PostgreSQL's text can't hold NUL; the finding says that one was there.
    return None if text is None else redact(text).replace("\x00", "\u2400")


def _over_rate(
    session: Session,
    connection: Connection,
    instance: AgentInstance,
    layer: SecurityLayer,
    action: str,
    credential: Credential,
) -> ThrottledError | None:
    limit = layer.config.max_requests_per_minute
    hit = fetch_one(
        connection,
        "SELECT * FROM rate_limit_hit(%s, %s)",
        f"instance:{instance.instance_id}",
        limit,
    )
    assert hit is not None
    if hit["allowed"]:
        return None
    if layer.monitoring_mode is not MonitoringMode.PASSIVE:
        note_throttling(session, connection, instance, layer, action, credential)
    seconds = math.ceil(hit["reset_seconds"])
    return ThrottledError(
        f"This instance may act {limit} times a minute under {layer.name!r}; "
        f"try again in {seconds} s",
        retry_after=seconds,
        limit=limit,
    )


def note_throttling(
    session: Session,
    connection: Connection,
    instance: AgentInstance,
    layer: SecurityLayer,
    action: str,
    credential: Credential,
) -> None:
    """Keep that an instance was over its layer's rate: an act and a violation, once a minute."""
    # The first refusal of a minute says it all; one row each would let an agent fill the disk.
    noted = fetch_one(
        connection,
        "SELECT FROM instance_activities WHERE instance_id = %s AND throttled "
        "AND at > clock_timestamp() - interval '1 minute' LIMIT 1",
        instance.instance_id,
    )
    if noted is not None:
        return
    row = insert_activity(
        connection, instance.instance_id, Activity(action), credential, throttled=True
    )
    limit = layer.config.max_requests_per_minute
    note_violation(
        session,
        connection,
        instance.instance_id,
        layer,
        "rate_limit_exceeded",
        Severity.MEDIUM,
        f"more than {limit} requests in a minute",
        {"activity_id": row["activity_id"], "limit": limit},
    )
