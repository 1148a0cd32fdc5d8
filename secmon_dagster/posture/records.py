"""What the posture tables hold, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.scanning import redact
from secmon_dagster.posture.score import Band, CheckStatus, CheckType, Severity

MAX_NAME = 200
MAX_PROMPT = 100_000
MAX_OUTPUT = 1_000_000


@dataclass(frozen=True, slots=True)
class AgentInstance:
    """An agent that acts.

    Attributes:
        scopes: the actions it may take; None when none were declared.
        activity_schemas: for an action, the JSON Schema its details must satisfy.
    """

    instance_id: str
    owner_id: str
    session_id: str | None
    name: str
    model_name: str | None
    scopes: list[str] | None
    activity_schemas: dict[str, Any]
    metadata: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class InstanceProfile:
    """Under which layer an instance is, what it did lately, and its score.

    ``prompt_history`` and ``activity_log`` are the newest hundred, oldest first.
    """

    profile_id: str
    instance_id: str
    layer_id: str
    prompt_history: list[dict[str, Any]]
    activity_log: list[dict[str, Any]]
    security_score: float
    status: Band
    attached_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SecurityCheck:
    """The stored result of one check."""

    check_id: str
    instance_id: str
    check_type: CheckType
    status: CheckStatus
    severity: Severity
    description: str
    details: dict[str, Any]
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken.

    Attributes:
        termination: ``due`` while the instance's runs still have to be ended, then ``done``;
            ``none`` when its layer doesn't ask for that.
        ended_runs: the runs that were cancelled for it.
    """

    violation_id: str
    instance_id: str
    violation_type: str
    check_type: CheckType
    severity: Severity
    description: str
    details: dict[str, Any]
    run_id: str | None
    termination: str
    ended_runs: list[str]
    at: datetime


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """One step of the score's history."""

    score: float
    status: Band
    previous: Band | None
    cause: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Credential:
    """How a caller proved itself.

    Attributes:
        method: ``api_key``, ``dagster`` (a run of the platform) or ``library``.
        key_id: the public half of the key.
        error: why it was refused: ``expired`` or ``revoked``.
    """

    method: str = "library"
    key_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One act of an instance, as it is reported.

    Raises:
        InvalidInputError: a field has the wrong type, is too long, or can't be stored.
    """

    action: str
    details: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        require_text("action", self.action, MAX_NAME)
        # It is named in violations, audit entries and answers.
        object.__setattr__(self, "action", redact(self.action)[:MAX_NAME])
        require_json("details", self.details)
        if self.prompt is not None:
            require_text("prompt", self.prompt, MAX_PROMPT, empty=True)
        if self.output is not None:
            require_text("output", self.output, MAX_OUTPUT, empty=True)


def require_text(field_name: str, value: object, longest: int, *, empty: bool = False) -> str:
    """``value`` if it is a string of 1 (0 with ``empty``) to ``longest`` characters.

    Raises:
        InvalidInputError: it is not, or holds half a surrogate pair, which UTF-8 can't.
    """
    shortest = 0 if empty else 1
    # The text itself is not repeated: it may hold a secret, and errors reach logs.
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        what = f"{len(value)} characters long" if isinstance(value, str) else type(value).__name__
        raise InvalidInputError(
            f"{field_name} is {what}; allowed: {shortest} to {longest} characters",
            field=field_name,
        )
    if not empty and "\x00" in value:
        raise InvalidInputError.of(field_name, "…", "text without the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInputError.of(field_name, "…", "text without lone surrogates") from None
    return value


_MAX_JSON_BYTES = 262_144
_MAX_DEPTH = 32


def require_json(field_name: str, value: object) -> None:
    """Raise :class:`InvalidInputError` unless ``value`` is a JSON object PostgreSQL can keep."""
    import orjson

    if not isinstance(value, Mapping):
        raise InvalidInputError.of(field_name, value, "a JSON object")
    _require_tree(field_name, value)
    try:
        encoded = orjson.dumps(dict(value))
    except (TypeError, orjson.JSONEncodeError) as unfit:
        raise InvalidInputError(f"{field_name} is not JSON: {unfit}", field=field_name) from None
    if len(encoded) > _MAX_JSON_BYTES:
        raise InvalidInputError.of(
            field_name, f"{len(encoded)} bytes", f"at most {_MAX_JSON_BYTES} bytes of JSON"
        )
    if b"\\u0000" in encoded:
        raise InvalidInputError.of(field_name, "…", "text without the NUL character")


def _require_tree(field_name: str, value: object) -> None:
    todo = [(value, 1)]
    while todo:
        item, level = todo.pop()
        if level > _MAX_DEPTH:
            raise InvalidInputError.of(field_name, "…", f"at most {_MAX_DEPTH} levels")
        if isinstance(item, float) and not math.isfinite(item):
            raise InvalidInputError.of(field_name, item, "finite numbers")
        if isinstance(item, Mapping):
            todo += [(inner, level + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            todo += [(inner, level + 1) for inner in item]
