"""What a verification answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from secmon_dagster.audit.scan import Finding


class Verdict(StrEnum):
    """Good, tampered with, or not to be told."""

    VALID = "valid"
    TAMPERED = "tampered"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """For the command line."""
        return {"valid": 0, "tampered": 1, "unknown": 2}[self.value]


@dataclass(frozen=True)
class Verification:
    """The result of verifying a chain or a range of it.

    Attributes:
        total_entries: entries of the whole chain, archived ones included.
        verified_entries: entries read whose fields give their hash.
        invalid_entries: entries whose fields don't give their hash.
        chain_breaks: links that don't hold: gaps, order, previous hashes, the head, the archive.
        checkpoint_problems: what contradicts a signed checkpoint.
        first_seq, last_seq: the range that was read.
        checkpoint_size: entries covered by the largest checkpoint that holds.
        checkpoints_checked: checkpoints whose signature and root were compared.
        checkpoints_unreadable: checkpoints by a key this verifier does not have.
        superseded: entries hidden by rollbacks.
        archived: entries whose rows are in archive files; only their hashes were checked.
        incarnation: how often the log was restored and announced it, plus one.
        outbox, outbox_age_seconds: committed acts that wait to be appended.
        notes: what could not be told, in sentences.
    """

    total_entries: int
    verified_entries: int
    first_seq: int
    last_seq: int
    invalid_entries: tuple[Finding, ...] = ()
    chain_breaks: tuple[Finding, ...] = ()
    checkpoint_problems: tuple[Finding, ...] = ()
    invalid_count: int = 0
    break_count: int = 0
    checkpoint_size: int = 0
    checkpoints_checked: int = 0
    checkpoints_unreadable: int = 0
    superseded: int = 0
    archived: int = 0
    incarnation: int = 1
    outbox: int = 0
    outbox_age_seconds: float = 0.0
    duration_ms: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Tampered if anything contradicts anything; unknown if something could not be checked."""
        if self.invalid_count or self.break_count or self.checkpoint_problems:
            return Verdict.TAMPERED
        return Verdict.UNKNOWN if self.notes else Verdict.VALID

    @property
    def uncovered_tail(self) -> int:
        """Entries newer than the largest checkpoint: a superuser could still change them unseen."""
        return max(0, self.total_entries - self.checkpoint_size)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; ``valid`` is false unless everything was checked and held."""
        return {
            "valid": self.verdict is Verdict.VALID,
            "verdict": str(self.verdict),
            "total_entries": self.total_entries,
            "verified_entries": self.verified_entries,
            "invalid_entries": [finding.to_dict() for finding in self.invalid_entries],
            "chain_breaks": [finding.to_dict() for finding in self.chain_breaks],
            "checkpoint_problems": [finding.to_dict() for finding in self.checkpoint_problems],
            "invalid_count": self.invalid_count,
            "break_count": self.break_count,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "checkpoint_size": self.checkpoint_size,
            "checkpoint_ok": self.checkpoint_size > 0 and not self.checkpoint_problems,
            "checkpoints_checked": self.checkpoints_checked,
            "checkpoints_unreadable": self.checkpoints_unreadable,
            "uncovered_tail": self.uncovered_tail,
            "superseded": self.superseded,
            "archived": self.archived,
            "incarnation": self.incarnation,
            "outbox": self.outbox,
            "outbox_age_seconds": self.outbox_age_seconds,
            "duration_ms": self.duration_ms,
            "notes": list(self.notes),
        }
