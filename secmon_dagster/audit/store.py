"""What the chain asks of a database, and which database a URL means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from secmon_dagster.audit.entry import AuditEntry, Draft, Head, Receipt
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.errors import InvalidInputError

# Entries of one transaction of a bulk append, and bytes of their payloads after which it is full:
# one statement's parameters must stay far below libpq's 1 GB.
BULK, BULK_BYTES = 2000, 8 * 2**20


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries to list. All conditions must hold; None means any."""

    actor: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    action: str | None = None
    level: str | None = None
    event_type: str | None = None
    execution_id: str | None = None
    job_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after_seq: int | None = None
    before_seq: int | None = None
    newest_first: bool = False
    include_superseded: bool = False
    limit: int | None = None

    def conditions(self) -> list[tuple[str, str, Any]]:
        """``(column, operator, value)`` of each condition that is set."""
        equal = (
            "actor",
            "resource_type",
            "resource_id",
            "action",
            "level",
            "event_type",
            "execution_id",
            "job_id",
        )
        found: list[tuple[str, str, Any]] = [
            (name, "=", getattr(self, name)) for name in equal if getattr(self, name) is not None
        ]
        ranges = (
            ("timestamp", ">=", self.since),
            ("timestamp", "<=", self.until),
            ("seq", ">", self.after_seq),
            ("seq", "<", self.before_seq),
        )
        return found + [condition for condition in ranges if condition[2] is not None]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A signed checkpoint as the database keeps it."""

    origin: str
    size: int
    root: bytes
    peaks: bytes
    last_hash: bytes
    note: str
    created_at: datetime

    def tree(self) -> Frontier | None:
        """The tree it is over, to go on with; None if its peaks don't fit its size. Compare its
        root before you believe it."""
        starts = range(0, len(self.peaks), 32)
        try:
            return Frontier(self.size, [self.peaks[start : start + 32] for start in starts])
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the chain: rows in the database, or only their hashes, the rows in a file."""

    first_seq: int
    last_seq: int
    archived: bool


class Snapshot(Protocol):
    """One consistent view of the chain, however many entries are appended meanwhile."""

    @property
    def head(self) -> Head:
        """The end of the chain."""
        ...

    @property
    def segments(self) -> Sequence[Segment]:
        """Stretches by seq that together are the whole chain."""
        ...

    def rows(self, first_seq: int, last_seq: int) -> Iterator[bytes]:
        """COPY tuples of the entries in this range, by seq (see ``encoding``)."""
        ...

    def leaves(self, first_seq: int, last_seq: int) -> Sequence[bytes]:
        """Entry hashes of the range, archived ones too."""
        ...

    def seq_at(self, moment: datetime) -> int:
        """The last seq whose time is not after ``moment``; 0 if there is none."""
        ...

    def checkpoints(self) -> list[StoredCheckpoint]:
        """All stored checkpoints, by size."""
        ...

    def superseded(self) -> list[tuple[int, int]]:
        """``(last kept seq, marker seq)`` of each rollback."""
        ...

    def announcements(self) -> list[str]:
        """The data of the entries that announce an incarnation, by seq."""
        ...

    def outbox(self) -> tuple[int, float]:
        """Entries waiting to be sequenced, and the age in seconds of the oldest."""
        ...


def batches(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    """The transactions of a bulk append."""
    batch: list[Draft] = []
    size = 0
    for draft in drafts:
        batch.append(draft)
        size += len(draft.data or "") + len(draft.details or "")
        if len(batch) == BULK or size >= BULK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Store(Protocol):
    """A database that holds a chain."""

    name: str

    def append(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Append all or nothing; durable on return; idempotent by entry id."""
        ...

    def append_bulk(self, drafts: Iterable[Draft]) -> None:
        """Append in order, a batch a transaction. Where ``drafts`` raises, nothing of its
        transaction is appended, and those before it stay."""
        ...

    def head(self) -> Head:
        """The end of the chain."""
        ...

    def clock(self) -> datetime:
        """The time by the clock that stamps entries."""
        ...

    def get(self, entry_id: str) -> AuditEntry | None:
        """The entry with this id."""
        ...

    def find(self, query: Query) -> list[AuditEntry]:
        """Entries by ``query``, in order of seq."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Counts over the whole chain."""
        ...

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """A consistent view, for verification, export and proofs."""
        ...

    def rollback(
        self, target: bytes, marker_id: str, actor: str, details: str | None
    ) -> tuple[int | None, int]:
        """Append a marker that supersedes all after ``target``: its seq and how many."""
        ...

    def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Keep a signed checkpoint; a second one of the same size is ignored."""
        ...

    def latest_checkpoint(self) -> StoredCheckpoint | None:
        """The last one made."""
        ...

    def sequence(self, most: int) -> int:
        """Move up to ``most`` outbox rows into the chain; how many were moved."""
        ...

    def guarantees(self) -> dict[str, str]:
        """What this database prevents, detects or can't see; attack -> answer."""
        ...

    def close(self) -> None:
        """Give up all connections."""
        ...


def scheme_of(url: str) -> str:
    """``postgresql``, ``sqlite`` or ``mysql``.

    Raises:
        InvalidInputError: another scheme; the URL itself is not shown, it may hold a password.
    """
    scheme = url.partition(":")[0].partition("+")[0].lower()
    known = {
        "postgresql": "postgresql",
        "postgres": "postgresql",
        "sqlite": "sqlite",
        "mysql": "mysql",
        "mariadb": "mysql",
    }
    if scheme not in known or ":" not in url:
        raise InvalidInputError.of(
            "database_url", f"{scheme[:40]}:…", "postgresql://…, sqlite:///FILE, mysql://…"
        )
    return known[scheme]
