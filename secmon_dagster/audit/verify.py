"""Verifying a chain: rows, links, head, tree, and what was signed about it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.audit.covering import Covering, newest_incarnation
from secmon_dagster.audit.entry import GENESIS_HASH
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.audit.reading import Reading
from secmon_dagster.audit.scan import Problem
from secmon_dagster.audit.store import Snapshot, StoredCheckpoint
from secmon_dagster.audit.verification import Verification
from secmon_dagster.errors import CheckpointError, InvalidInputError


@dataclass(frozen=True)
class Trust:
    """What a verifier believes without the database.

    Attributes:
        name: the log's name.
        ring: public keys.
        notes: checkpoints from witnesses, or that an auditor kept.
        silent: why witnesses could not be asked; then a good chain is not known to be good.
    """

    name: str
    ring: KeyRing
    notes: Sequence[str] = ()
    silent: Sequence[str] = ()


def verify(
    snapshot: Snapshot,
    trust: Trust,
    *,
    first_seq: int | None = None,
    last_seq: int | None = None,
    since_checkpoint: bool = False,
    workers: int | None = None,
) -> Verification:
    """Verify a chain or a part of it.

    Args:
        snapshot: a consistent view; entries appended meanwhile are not part of it.
        trust: keys and checkpoints. Those in the database are checked as well.
        first_seq, last_seq: the range, ends included; None means from the first, to the last.
        since_checkpoint: begin after the largest checkpoint that a trusted key signed: the work is
            then proportional to what is new, and what is older is not read.
        workers: processes for long chains; None means one for each core.

    Raises:
        InvalidInputError: the range is not in the chain.
    """
    began = time.perf_counter()
    head = snapshot.head
    end = max([head.seq, *(segment.last_seq for segment in snapshot.segments)])
    stored = snapshot.checkpoints()
    first, last = first_seq or 1, end if last_seq is None else min(last_seq, end)
    if (first_seq is not None and first_seq < 1) or (first > last + 1):
        raise InvalidInputError.of("range", f"{first_seq}–{last_seq}", f"within 1–{end}")
    notes = [*trust.notes, *(checkpoint.note for checkpoint in stored)]
    restored_at = _restores(snapshot, notes, trust) if head.incarnation > 1 else {}
    base = _last_trusted(stored, trust, restored_at, last) if since_checkpoint else None
    if base is not None:
        notes = [note for note in notes if not _is_older(note, base.size)]
    covering = Covering.of(notes, trust.ring, trust.name, restored_at)
    reading = Reading(1, GENESIS_HASH, Frontier(), covering.sizes)
    if base is not None:
        leaf = snapshot.leaves(base.size, base.size)
        reading = Reading(base.size + 1, leaf[0] if leaf else None, base, covering.sizes)
    elif first > 1 and not since_checkpoint:
        before = snapshot.leaves(first - 1, first - 1)
        reading = Reading(first, before[0] if before else None, None, ())
    from_size = reading.next_seq - 1
    first = reading.next_seq
    reading.read(snapshot, last, workers or len(os.sched_getaffinity(0)))
    ended = reading.previous or GENESIS_HASH
    if last == end and (head.seq, head.entry_hash) != (reading.last_found, ended):
        reading.report(
            Problem.HEAD,
            reading.last_found,
            f"{head.seq}:{head.entry_hash.hex()}",
            f"{reading.last_found}:{ended.hex()}",
        )
    largest = compared = 0
    if reading.sizes or from_size == 0:
        covered_end = end if last == end else last
        beyond = [c for c in covering.checkpoints if covered_end < c.size <= end]
        covering.checkpoints = [c for c in covering.checkpoints if c not in beyond]
        largest, compared = covering.compare(covered_end, reading.peaks_at, from_size)
    remarks = list(trust.silent)
    if covering.unreadable and not compared:
        remarks.append(
            f"{covering.unreadable} checkpoints are signed by keys that are not in the ring"
        )
    waiting, age = snapshot.outbox()
    return Verification(
        total_entries=end,
        verified_entries=reading.entries - reading.invalid_count,
        first_seq=first,
        last_seq=last,
        invalid_entries=tuple(reading.invalid),
        chain_breaks=tuple(reading.breaks),
        checkpoint_problems=tuple(covering.problems),
        invalid_count=reading.invalid_count,
        break_count=reading.break_count,
        checkpoint_size=largest,
        checkpoints_checked=compared,
        checkpoints_unreadable=covering.unreadable,
        superseded=superseded_entries(snapshot.superseded()),
        archived=reading.archived,
        incarnation=head.incarnation,
        outbox=waiting,
        outbox_age_seconds=age,
        duration_ms=(time.perf_counter() - began) * 1000,
        notes=tuple(remarks),
    )


def _last_trusted(
    stored: Sequence[StoredCheckpoint], trust: Trust, restored_at: Mapping[int, int], last: int
) -> Frontier | None:
    """The tree of the largest checkpoint up to ``last`` that a trusted key signed."""
    for checkpoint in reversed(stored):
        tree = checkpoint.tree()
        if tree is not None and 0 < tree.size <= last:
            held = Covering.of([checkpoint.note], trust.ring, trust.name, restored_at).checkpoints
            if held and (held[0].size, held[0].root) == (tree.size, tree.root):
                return tree
    return None


def _is_older(note: str, size: int) -> bool:
    """Whether a note is over less than ``size`` entries; a malformed one stays, to be reported."""
    try:
        return Checkpoint.open(note, [])[0].size < size
    except CheckpointError:
        return False


def superseded_entries(rollbacks: Sequence[tuple[int, int]]) -> int:
    """How many entries lie in the union of the ranges ``(kept, marker)``, ends excluded."""
    count, covered_to = 0, 0
    for kept, marker in sorted(rollbacks):
        first = max(kept + 1, covered_to + 1)
        count += max(0, marker - first)
        covered_to = max(covered_to, marker - 1)
    return count


def _restores(snapshot: Snapshot, notes: Sequence[str], trust: Trust) -> dict[int, int]:
    """Incarnation -> number of entries it began with, as the log's own entries announce it.

    Only those that a trusted key went on to sign under: an announcement gives checkpoints up, and
    whoever can rewrite the log can write one into it.
    """
    signed = newest_incarnation(notes, trust.ring, trust.name)
    restores: dict[int, int] = {}
    for text in snapshot.announcements():
        match json.loads(text or "null"):
            case {"incarnation": int(number), "restored_to": int(size)} if number <= signed:
                restores[number] = size
    return restores
