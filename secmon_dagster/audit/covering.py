"""Comparing a chain with what was signed about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from secmon_dagster.audit.checkpoint import Checkpoint, incarnation_of
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.merkle import root_of_peaks
from secmon_dagster.audit.proof import trusted
from secmon_dagster.audit.scan import Finding, Problem
from secmon_dagster.errors import CheckpointError


def newest_incarnation(notes: Sequence[str], ring: KeyRing, name: str) -> int:
    """The highest incarnation under which a key of the ring signed; 1 if there is none."""
    numbered: list[tuple[int, str]] = []
    for note in notes:
        with suppress(CheckpointError):
            number = incarnation_of(Checkpoint.open(note, [])[0].origin, name)
            if number is not None and number > 1:
                numbered.append((number, note))
    for number, note in sorted(numbered, reverse=True):
        with suppress(CheckpointError):
            trusted(note, ring)
            return number
    return 1


@dataclass
class Covering:
    """Signed checkpoints of one log, sorted out.

    Attributes:
        checkpoints: those whose signature holds, by size.
        problems: what is wrong with them or with the chain under them.
        unreadable: notes by keys that the ring does not have.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    unreadable: int = 0

    @classmethod
    def of(
        cls,
        notes: Sequence[str],
        ring: KeyRing,
        name: str,
        restored_at: Mapping[int, int] | None = None,
    ) -> Covering:
        """Check signatures, and that no two checkpoints contradict each other.

        Args:
            notes: from the database, from witnesses, from an auditor; doubles are dropped.
            ring: the keys that count.
            name: the log's name; notes of other logs are ignored.
            restored_at: incarnation -> size at which the one before it ended by a restore that
                the log itself announces. What an earlier one signed beyond that was lost.
        """
        found = cls()
        known: dict[tuple[str, int], Checkpoint] = {}
        for note in dict.fromkeys(notes):
            try:
                checkpoint, signed = Checkpoint.open(note, ring.keys)
            except CheckpointError as malformed:
                found._problem(Problem.CHECKPOINT_SIGNATURE, 0, "a valid note", malformed.message)
                continue
            incarnation = incarnation_of(checkpoint.origin, name)
            if incarnation is None:
                continue
            if not signed:
                found.unreadable += 1
                continue
            refusals = [ring.refusal(key, checkpoint.size) for key in signed]
            if all(refusals):
                found._problem(
                    Problem.CHECKPOINT_SIGNATURE, checkpoint.size, "an older key", str(refusals[0])
                )
                continue
            lost_from = min(
                [size for later, size in (restored_at or {}).items() if later > incarnation],
                default=None,
            )
            if lost_from is not None and checkpoint.size > lost_from:
                continue
            other = known.setdefault((checkpoint.origin, checkpoint.size), checkpoint)
            if other.root != checkpoint.root:
                found._problem(
                    Problem.CHECKPOINT_CONFLICT,
                    checkpoint.size,
                    other.root.hex(),
                    checkpoint.root.hex(),
                )
        found.checkpoints = sorted(known.values(), key=lambda checkpoint: checkpoint.size)
        return found

    @property
    def sizes(self) -> list[int]:
        """The sizes at which a root is needed, ascending."""
        return sorted({checkpoint.size for checkpoint in self.checkpoints})

    def compare(
        self, end: int, peaks_at: Mapping[int, Sequence[bytes]], from_size: int = 0
    ) -> tuple[int, int]:
        """Compare the checkpoints with the chain that was read.

        Args:
            end: entries that there are.
            peaks_at: the peaks of the tree at each size that was reached.
            from_size: size at which reading began.

        Returns:
            The largest size that holds, and how many checkpoints were compared.
        """
        largest = compared = 0
        for checkpoint in self.checkpoints:
            if checkpoint.size < from_size:
                continue
            compared += 1
            if checkpoint.size > end:
                self._problem(
                    Problem.CHECKPOINT_SIZE,
                    checkpoint.size,
                    f"{checkpoint.size} entries",
                    f"{end} entries",
                )
                continue
            peaks = peaks_at.get(checkpoint.size)
            found = "entries are missing" if peaks is None else root_of_peaks(peaks).hex()
            if found == checkpoint.root.hex():
                largest = checkpoint.size
            else:
                self._problem(
                    Problem.CHECKPOINT_ROOT, checkpoint.size, checkpoint.root.hex(), found
                )
        return largest, compared

    def _problem(self, problem: Problem, seq: int, expected: str, found: str) -> None:
        self.problems.append(Finding(problem, seq, expected, found))
