"""Reading a stretch of the chain once and saying all that is wrong with it.

Pure: rows in, findings out. Needs no database and keeps nothing but hashes of one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

from secmon_dagster.audit.encoding import CONTENT_END, FIXED_END, FIXED_START, HASH_START, TAG
from secmon_dagster.audit.merkle import Frontier

# Entries of one kind that are named; more are only counted, so that memory stays bounded.
MAX_NAMED = 10_000
BLOCK = 4096


class Problem(StrEnum):
    """What can be wrong. The first is about an entry, the next about links between entries."""

    ENTRY_HASH = "entry_hash"  # the entry's fields don't give its hash
    PREVIOUS_HASH = "previous_hash"  # the entry does not continue the one before it
    SEQUENCE = "sequence"  # a number is missing, double or out of order
    HEAD = "head"  # the chain does not end where its head says
    ARCHIVE = "archive"  # the hashes of an archived stretch are incomplete or don't connect
    CHECKPOINT_SIGNATURE = "checkpoint_signature"
    CHECKPOINT_SIZE = "checkpoint_size"  # the chain is shorter than it was
    CHECKPOINT_ROOT = "checkpoint_root"  # the chain is not the one that was signed
    CHECKPOINT_CONFLICT = "checkpoint_conflict"  # two signed checkpoints contradict each other


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what was expected, what was found."""

    problem: Problem
    seq: int
    expected: str
    found: str
    entry_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "problem": str(self.problem),
            "seq": self.seq,
            "entry_id": self.entry_id,
            "expected": self.expected,
            "found": self.found,
        }


@dataclass
class Scan:
    """What was read of a range of the chain.

    Attributes:
        first_seq: the number that the first row should have.
        entries: rows read.
        invalid, breaks: the findings, at most ``MAX_NAMED`` of each.
        invalid_count, break_count: how many there were.
        first_previous: ``previous_hash`` of the first row, None if there was no row.
        last_hash: ``entry_hash`` of the last row.
        tree: the Merkle tree over the rows read, as if the first were leaf 0.
        peaks_at: for each asked size, the peaks of the tree when it had that many leaves.
    """

    first_seq: int
    entries: int = 0
    next_seq: int = 0
    invalid: list[Finding] = field(default_factory=list)
    breaks: list[Finding] = field(default_factory=list)
    invalid_count: int = 0
    break_count: int = 0
    first_previous: bytes | None = None
    last_hash: bytes | None = None
    tree: Frontier = field(default_factory=Frontier)
    peaks_at: dict[int, list[bytes]] = field(default_factory=dict)


def scan(
    rows: Iterable[bytes],
    first_seq: int,
    *,
    previous_hash: bytes | None = None,
    sizes: Sequence[int] = (),
    tree: Frontier | None = None,
) -> Scan:
    """Check each row's hash, number and link, and build the tree.

    Args:
        rows: COPY tuples by seq.
        first_seq: number that the first row must have.
        previous_hash: hash that the first row must continue; None leaves that to the caller.
        sizes: ascending numbers of leaves at which the peaks are kept.
        tree: a tree to go on with; None starts an empty one.
    """
    result = Scan(first_seq, next_seq=first_seq, tree=tree or Frontier())
    wanted = [size for size in sizes if size >= result.tree.size]
    wanted.reverse()
    block: list[bytes] = []
    previous = previous_hash
    expected_seq = first_seq
    # A copy of a begun hash costs an eighth less than a new one.
    new_content, new_entry = sha256(TAG).copy, sha256(b"\x01").copy
    for row in rows:
        stored = row[HASH_START:]
        fixed = row[FIXED_START:FIXED_END]
        content = new_content()
        content.update(row[FIXED_END:CONTENT_END])
        entry = new_entry()
        entry.update(fixed + content.digest())
        computed = entry.digest()
        if computed != stored:
            _invalid(result, row, computed)
        seq = int.from_bytes(fixed[4:12])
        if seq != expected_seq:
            _break(result, Problem.SEQUENCE, seq, str(expected_seq), str(seq), row)
            expected_seq = seq
        linked = fixed[16:48]
        if linked != previous:
            if previous is not None:
                _break(result, Problem.PREVIOUS_HASH, seq, previous.hex(), linked.hex(), row)
            elif result.first_previous is None:
                result.first_previous = linked
        previous = stored
        expected_seq += 1
        block.append(stored)
        if len(block) == BLOCK:
            _grow(result, block, wanted)
            block = []
    _grow(result, block, wanted)
    result.last_hash = previous if result.entries else None
    result.next_seq = expected_seq
    return result


def _grow(result: Scan, block: list[bytes], wanted: list[int]) -> None:
    """Add a block to the tree, stopping at each size whose peaks are asked for."""
    at = 0
    while wanted and wanted[-1] <= result.tree.size + len(block) - at:
        size = wanted.pop()
        upto = at + size - result.tree.size
        result.tree.extend(block[at:upto])
        at = upto
        result.peaks_at[size] = list(result.tree.peaks)
    result.tree.extend(block[at:])
    result.entries += len(block)


def _invalid(result: Scan, row: bytes, computed: bytes) -> None:
    result.invalid_count += 1
    if len(result.invalid) < MAX_NAMED:
        result.invalid.append(
            Finding(
                Problem.ENTRY_HASH,
                int.from_bytes(row[6:14], signed=True),
                computed.hex(),
                row[HASH_START:].hex(),
                entry_id_of(row),
            )
        )


def _break(result: Scan, problem: Problem, seq: int, expected: str, found: str, row: bytes) -> None:
    result.break_count += 1
    if len(result.breaks) < MAX_NAMED:
        result.breaks.append(Finding(problem, seq, expected, found, entry_id_of(row)))


def entry_id_of(row: bytes) -> str | None:
    """The entry id in a COPY tuple: the field after ``db_user``; None if the tuple is malformed."""
    user = int.from_bytes(row[FIXED_END : FIXED_END + 4], signed=True)
    at = FIXED_END + 4 + max(user, 0)
    length = int.from_bytes(row[at : at + 4], signed=True)
    return row[at + 4 : at + 4 + length].decode(errors="replace") if length > 0 else None
