"""Reading a whole chain, on one core or on all, as one tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from secmon_dagster.audit import scan_worker
from secmon_dagster.audit.backends.postgres_snapshot import PostgresSnapshot
from secmon_dagster.audit.merkle import Frontier, peak_sizes
from secmon_dagster.audit.scan import Finding, Problem, Scan, scan
from secmon_dagster.audit.store import Snapshot

# A chunk is a perfect subtree of at least so many leaves, so that chunks combine by one hash.
CHUNK = 16_384
MOST_CHUNKS = 8192
# Below this, starting processes costs more than they save.
PARALLEL_FROM = 262_144


@dataclass
class Reading:
    """What was found on the way, and where the chain stands now.

    Attributes:
        next_seq: the number that comes next.
        previous: hash of the entry before it; None if unknown.
        tree: the tree so far; None once entries are missing, or if it does not begin at leaf 0.
        peaks_at: peaks at the sizes asked for.
        last_found: the last number that there really was.
    """

    next_seq: int
    previous: bytes | None
    tree: Frontier | None
    sizes: Sequence[int]
    entries: int = 0
    archived: int = 0
    invalid: list[Finding] = field(default_factory=list)
    breaks: list[Finding] = field(default_factory=list)
    invalid_count: int = 0
    break_count: int = 0
    peaks_at: dict[int, list[bytes]] = field(default_factory=dict)
    last_found: int = 0

    def __post_init__(self) -> None:
        self.last_found = self.next_seq - 1
        if self.tree is not None and self.tree.size in self.sizes:
            self.peaks_at[self.tree.size] = list(self.tree.peaks)

    def read(self, snapshot: Snapshot, last_seq: int, workers: int) -> None:
        """Read on to ``last_seq``."""
        for segment in snapshot.segments:
            stop = min(last_seq, segment.last_seq)
            if stop < self.next_seq:
                continue
            if segment.archived:
                self._read_hashes(snapshot.leaves(self.next_seq, stop), stop)
            elif (
                workers > 1
                and isinstance(snapshot, PostgresSnapshot)
                and stop - self.next_seq + 1 >= PARALLEL_FROM
            ):
                self._read_in_parallel(snapshot, stop, workers)
            else:
                self._read_rows(snapshot.rows(self.next_seq, stop), stop)

    def _read_rows(self, rows: Iterable[bytes], stop: int) -> None:
        """Rows one after the other, hashed into the one tree."""
        found = scan(
            rows, self.next_seq, previous_hash=self.previous, sizes=self.sizes, tree=self.tree
        )
        self._count(found)
        if self.tree is not None:
            self.tree = found.tree
            self.peaks_at |= found.peaks_at
        self.previous = found.last_hash or self.previous
        self._arrive(found.next_seq, stop)

    def _read_hashes(self, leaves: Sequence[bytes], stop: int) -> None:
        """An archived stretch: its rows are in a file, its hashes are here."""
        expected = stop - self.next_seq + 1
        self.archived += expected
        if len(leaves) != expected:
            self.report(Problem.ARCHIVE, self.next_seq, f"{expected} hashes", f"{len(leaves)}")
            self.tree = None
        if self.tree is not None:
            at = 0
            for size in [s for s in self.sizes if self.tree.size < s <= self.tree.size + expected]:
                self.tree.extend(leaves[at : at + size - self.tree.size])
                at = len(leaves) - (stop - size)
                self.peaks_at[size] = list(self.tree.peaks)
            self.tree.extend(leaves[at:])
        self.previous = leaves[-1] if leaves else None
        self.next_seq, self.last_found = stop + 1, stop

    def _read_in_parallel(self, snapshot: PostgresSnapshot, stop: int, workers: int) -> None:
        """Whole chunks on all cores, joined in their order."""
        chunk = CHUNK
        while (stop - self.next_seq) // chunk >= MOST_CHUNKS:
            chunk *= 2
        # Up to where the first chunk begins, and not a leaf further.
        start = -(-(self.next_seq - 1) // chunk) * chunk + 1
        if start > self.next_seq:
            self._read_rows(snapshot.rows(self.next_seq, start - 1), start - 1)
        chunks = [(at, min(at + chunk - 1, stop)) for at in range(start, stop + 1, chunk)]
        identity = snapshot.export()
        with scan_worker.chunk_numbers(len(chunks)) as numbers:
            running = [
                scan_worker.request(snapshot.parameters, identity, chunks, numbers, self.sizes)
                for _ in range(1, workers)
            ]
            try:
                scans = scan_worker.scan_chunks(snapshot.connection, chunks, numbers, self.sizes)
                for worker in running:
                    scans |= scan_worker.answer(worker)
            except BaseException:
                for worker in running:
                    worker.kill()
                    worker.wait()
                raise
        for number, (first, last) in enumerate(chunks):
            self._join(scans[number], first, last)

    def _join(self, found: Scan, first: int, last: int) -> None:
        """Append a chunk that was read as a tree of its own."""
        self._count(found)
        if found.entries and self.previous not in (None, found.first_previous):
            assert self.previous is not None
            self.report(
                Problem.PREVIOUS_HASH,
                first,
                self.previous.hex(),
                (found.first_previous or b"").hex(),
            )
        self.previous = found.last_hash or self.previous
        if found.tree.size != last - first + 1:
            self.tree = None
        if self.tree is not None:
            for size, peaks in found.peaks_at.items():
                self.peaks_at[first - 1 + size] = _joined(self.tree, peaks, size).peaks
            self.tree = _joined(self.tree, found.tree.peaks, found.tree.size)
        self._arrive(found.next_seq, last)

    def _count(self, found: Scan) -> None:
        self.entries += found.entries
        self.invalid += found.invalid
        self.breaks += found.breaks
        self.invalid_count += found.invalid_count
        self.break_count += found.break_count

    def _arrive(self, next_seq: int, stop: int) -> None:
        if next_seq <= stop:
            self.report(Problem.SEQUENCE, next_seq, f"entries {next_seq} to {stop}", "none")
        self.next_seq, self.last_found = stop + 1, next_seq - 1

    def report(self, problem: Problem, seq: int, expected: str, found: str) -> None:
        """Note a link that does not hold."""
        self.break_count += 1
        self.breaks.append(Finding(problem, seq, expected, found))


def _joined(tree: Frontier, peaks: Sequence[bytes], leaves: int) -> Frontier:
    """``tree`` followed by a tree of ``leaves`` leaves with these peaks."""
    joined = tree.copy()
    for peak, size in zip(peaks, peak_sizes(leaves), strict=True):
        joined.add_subtree(peak, size)
    return joined
