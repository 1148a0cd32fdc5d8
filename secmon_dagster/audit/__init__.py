"""The tamper-evident audit log: a hash chain whose head is signed and published outside.

``HashChainAuditLogger`` is the whole of it as an object, ``get_audit_logger`` the process's own,
``enqueue`` writes an entry inside a business transaction. docs/audit.md says how to verify, and
docs/threat-model.md what that proves and what it doesn't.

The names below are imported when they are asked for: a verification process needs the scanner, not
the migrations.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secmon_dagster.audit.entry import AuditEntry, EventType, Head, Level
    from secmon_dagster.audit.logger import HashChainAuditLogger
    from secmon_dagster.audit.outbox import Sequencer, enqueue
    from secmon_dagster.audit.process import get_audit_logger
    from secmon_dagster.audit.store import Query
    from secmon_dagster.audit.verification import Verdict, Verification

__all__ = [
    "AuditEntry",
    "EventType",
    "HashChainAuditLogger",
    "Head",
    "Level",
    "Query",
    "Sequencer",
    "Verdict",
    "Verification",
    "enqueue",
    "get_audit_logger",
]

_MODULES = {
    "entry": ("AuditEntry", "EventType", "Head", "Level"),
    "logger": ("HashChainAuditLogger",),
    "outbox": ("Sequencer", "enqueue"),
    "process": ("get_audit_logger",),
    "store": ("Query",),
    "verification": ("Verdict", "Verification"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
