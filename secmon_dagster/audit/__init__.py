"""The tamper-evident audit log: a hash chain whose head is signed and published outside.

``HashChainAuditLogger`` is the whole of it as an object, ``get_audit_logger`` the process's own,
``enqueue`` writes an entry inside a business transaction. docs/audit.md says how to verify, and
docs/threat-model.md what that proves and what it doesn't.
"""

from secmon_dagster.audit.entry import AuditEntry, EventType, Head, Level
from secmon_dagster.audit.logger import HashChainAuditLogger, get_audit_logger
from secmon_dagster.audit.outbox import Sequencer, enqueue
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
