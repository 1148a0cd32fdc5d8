"""An audit entry: what a caller says (:class:`Draft`) and what the chain made of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from secmon_dagster.audit.canonical import canonical_json
from secmon_dagster.errors import EntryRefusedError

GENESIS_HASH = bytes(32)
OWN_ACTIONS = "log."  # how actions of the log itself begin: they change how it is read
INCARNATION = "log.incarnation"  # the action of an entry that announces a restore
ROLLBACK = "log.rollback"  # of one that supersedes those before it
MAX_TEXT_BYTES = 1024


class Level(StrEnum):
    """How much an entry matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    CRITICAL = "critical"


_LEVELS = frozenset(Level)


class EventType(StrEnum):
    """The lifecycle events; other entries carry an event type of their own or none."""

    EXECUTION_START = "execution.start"
    EXECUTION_COMPLETE = "execution.complete"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLED = "execution.cancelled"
    JOB_START = "job.start"
    JOB_COMPLETE = "job.complete"
    JOB_FAILED = "job.failed"
    JOB_TIMEOUT = "job.timeout"
    JOB_MEMORY_LIMIT = "job.memory_limit"
    RESOURCE_VIOLATION = "resource.violation"
    SECURITY_VIOLATION = "security.violation"
    CONFIG_CHANGE = "config.change"


# Tuples, because they come by the thousand: a frozen dataclass takes 18 times as long to make.


class Draft(NamedTuple):
    """An entry before it has a place in the chain. Build through :meth:`of`, which checks."""

    entry_id: str
    level: str
    event_type: str | None
    action: str
    actor: str
    resource_type: str
    resource_id: str | None
    execution_id: str | None
    job_id: str | None
    data: str | None
    details: str | None

    @classmethod
    def of(
        cls,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: Any = None,
        details: Any = None,
        *,
        level: str = Level.INFO,
        event_type: str | None = None,
        execution_id: str | None = None,
        job_id: str | None = None,
        entry_id: str | None = None,
        max_payload_bytes: int = 1_048_576,
    ) -> Draft:
        """Check and canonicalise what a caller says.

        Raises:
            EntryRefusedError: naming the field, its value and what is allowed.
        """
        if level not in _LEVELS:
            allowed = ", ".join(Level)
            raise EntryRefusedError(f"level is {level!r}; allowed: {allowed}")
        return cls(
            entry_id=_required("entry_id", new_entry_id() if entry_id is None else entry_id),
            level=str(level),
            event_type=_optional("event_type", event_type),
            action=_required("action", action),
            actor=_required("actor", actor),
            resource_type=_required("resource_type", resource_type),
            resource_id=_optional("resource_id", resource_id),
            execution_id=_optional("execution_id", execution_id),
            job_id=_optional("job_id", job_id),
            data=canonical_json(data, field="data", max_bytes=max_payload_bytes),
            details=canonical_json(details, field="details", max_bytes=max_payload_bytes),
        )


def by_caller(draft: Draft) -> Draft:
    """What a caller may append.

    Raises:
        EntryRefusedError: an action of the log itself.
    """
    if draft.action.startswith(OWN_ACTIONS):
        raise EntryRefusedError(f"action is {draft.action!r}; log.* belongs to the log itself")
    return draft


class AuditEntry(NamedTuple):
    """One entry of the chain. ``data`` and ``details`` are canonical JSON text; hashes are hex."""

    seq: int
    previous_hash: str
    timestamp: datetime
    db_user: str
    entry_id: str
    level: str
    event_type: str | None
    action: str
    actor: str
    resource_type: str
    resource_id: str | None
    execution_id: str | None
    job_id: str | None
    data: str | None
    data_hash: str | None
    details: str | None
    entry_hash: str

    def to_dict(self) -> dict[str, Any]:
        """All fields in JSON types, with ``data`` and ``details`` as the values they stand for."""
        values = self._asdict()
        values["timestamp"] = self.timestamp.isoformat()
        values["data"] = None if self.data is None else json.loads(self.data)
        values["details"] = None if self.details is None else json.loads(self.details)
        return values


FIELDS: tuple[str, ...] = AuditEntry._fields
DRAFT_FIELDS: tuple[str, ...] = Draft._fields


class Receipt(NamedTuple):
    """What an append answers: the entry's place and hash."""

    entry_id: str
    seq: int
    timestamp: datetime
    entry_hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: number of entries and the hash of the last one."""

    seq: int
    entry_hash: bytes
    incarnation: int


def data_hash(data: str | None) -> str | None:
    """SHA-256 of the canonical data, hex."""
    return None if data is None else hashlib.sha256(data.encode()).hexdigest()


def new_entry_id() -> str:
    """A UUID of version 7 (RFC 9562): its first bits are the time, so that the index of entry ids
    grows at its end instead of everywhere."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _required(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise EntryRefusedError(f"{field} is {value!r}; allowed: text that is not empty")
    return _checked(field, value)


def _optional(field: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise EntryRefusedError(f"{field} is a {type(value).__name__}; allowed: text or None")
    if field == "event_type" and not value:
        raise EntryRefusedError("event_type is ''; allowed: text that is not empty, or None")
    return _checked(field, value)


def _checked(field: str, value: str) -> str:
    if value.isascii() and len(value) <= MAX_TEXT_BYTES and "\0" not in value:
        return str(value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise EntryRefusedError(
            f"{field} contains a lone surrogate: {value[:40]!a}; allowed: valid Unicode"
        ) from None
    if size > MAX_TEXT_BYTES:
        raise EntryRefusedError(f"{field} has {size} bytes; allowed: at most {MAX_TEXT_BYTES}")
    if "\0" in value:
        raise EntryRefusedError(f"{field} contains the character U+0000; allowed: any other text")
    return str(value)
