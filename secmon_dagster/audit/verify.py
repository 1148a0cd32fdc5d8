"""Verifying a chain: its rows, its links and its head."""

from __future__ import annotations

import time

from secmon_dagster.audit.entry import GENESIS_HASH
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.audit.scan import Finding, Problem, Scan, scan
from secmon_dagster.audit.store import Snapshot
from secmon_dagster.audit.verification import Verification
from secmon_dagster.errors import InvalidInputError


def verify(
    snapshot: Snapshot, *, first_seq: int | None = None, last_seq: int | None = None
) -> Verification:
    """Verify a chain or a range of it.

    Args:
        snapshot: a consistent view; entries appended meanwhile are not part of it.
        first_seq, last_seq: the range, ends included; None means from the first, to the last.
    """
    began = time.perf_counter()
    head = snapshot.head
    end = max([head.seq, *(segment.last_seq for segment in snapshot.segments)])
    first = 1 if first_seq is None else first_seq
    last = end if last_seq is None else min(last_seq, end)
    if first < 1 or (last < first and end):
        raise InvalidInputError.of("range", f"{first_seq}–{last_seq}", f"within 1–{end}")
    previous = GENESIS_HASH if first == 1 else None
    scans: list[Scan] = []
    breaks: list[Finding] = []
    tree = Frontier()
    archived = 0
    for segment in snapshot.segments:
        start, stop = max(first, segment.first_seq), min(last, segment.last_seq)
        if start > stop:
            continue
        if segment.archived:
            leaves = snapshot.leaves(start, stop)
            archived += stop - start + 1
            if len(leaves) != stop - start + 1:
                breaks.append(
                    Finding(Problem.ARCHIVE, start, f"{stop - start + 1} hashes", f"{len(leaves)}")
                )
            previous = leaves[-1] if leaves else None
            continue
        found = scan(snapshot.rows(start, stop), start, previous_hash=previous, tree=tree)
        tree = found.tree
        previous = found.last_hash or previous
        scans.append(found)
        if found.next_seq <= stop:
            breaks.append(
                Finding(
                    Problem.SEQUENCE, found.next_seq, f"entries to {stop}", f"{found.next_seq - 1}"
                )
            )
    if last == end and (head.seq != end or (previous or GENESIS_HASH) != head.entry_hash):
        breaks.append(
            Finding(
                Problem.HEAD,
                end,
                f"{head.seq}:{head.entry_hash.hex()}",
                f"{end}:{(previous or GENESIS_HASH).hex()}",
            )
        )
    entries = sum(found.entries for found in scans)
    invalid_count = sum(found.invalid_count for found in scans)
    waiting, age = snapshot.outbox()
    return Verification(
        total_entries=head.seq,
        verified_entries=entries - invalid_count,
        first_seq=first,
        last_seq=last,
        invalid_entries=tuple(finding for found in scans for finding in found.invalid),
        chain_breaks=tuple([finding for found in scans for finding in found.breaks] + breaks),
        invalid_count=invalid_count,
        break_count=sum(found.break_count for found in scans) + len(breaks),
        superseded=superseded_entries(snapshot.superseded()),
        archived=archived,
        outbox=waiting,
        outbox_age_seconds=age,
        duration_ms=(time.perf_counter() - began) * 1000,
    )


def superseded_entries(rollbacks: list[tuple[int, int]]) -> int:
    """How many entries lie in the union of the ranges ``(kept, marker)``, ends excluded."""
    count, covered_to = 0, 0
    for kept, marker in sorted(rollbacks):
        first = max(kept + 1, covered_to + 1)
        count += max(0, marker - first)
        covered_to = max(covered_to, marker - 1)
    return count
