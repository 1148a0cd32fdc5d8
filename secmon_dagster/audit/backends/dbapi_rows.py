"""Reading and writing the rows of a chain through a DB-API cursor."""
# ruff: noqa: S608 - columns and marks are this package's constants, values are parameters

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from secmon_dagster.audit.encoding import encode_row, microseconds, moment_of
from secmon_dagster.audit.entry import FIELDS, GENESIS_HASH, ROLLBACK, AuditEntry, Head
from secmon_dagster.audit.store import Segment, StoredCheckpoint

COLUMNS = ", ".join(f"audit_entries.{name}" for name in FIELDS)
CHECKPOINT_COLUMNS = "origin, size, root, peaks, last_hash, note, created_at"


class DbApiSnapshot:
    """One state of a chain."""

    def __init__(self, cursor: Any, mark: str) -> None:
        self._mark = mark
        self._cursor = cursor
        seq, digest, _ = read_head(cursor)
        self.head = Head(seq, digest, 1)
        cursor.execute("SELECT max(seq) FROM audit_entries")
        end = max(seq, cursor.fetchone()[0] or 0)
        self.segments = (Segment(1, end, archived=False),) if end else ()

    def rows(self, first_seq: int, last_seq: int) -> Iterator[bytes]:
        """COPY tuples of the entries in this range."""
        self._range(COLUMNS, first_seq, last_seq)
        while rows := self._cursor.fetchmany(1000):
            for row in rows:
                yield encode_row(from_row(row))

    def leaves(self, first_seq: int, last_seq: int) -> Sequence[bytes]:
        """Entry hashes of the range."""
        self._range("entry_hash", first_seq, last_seq)
        return [bytes(row[0]) for row in self._cursor.fetchall()]

    def seq_at(self, moment: datetime) -> int:
        """The last seq whose time is not after ``moment``."""
        self._cursor.execute(
            f"SELECT max(seq) FROM audit_entries WHERE timestamp <= {self._mark}",
            [microseconds(moment)],
        )
        return self._cursor.fetchone()[0] or 0

    def checkpoints(self) -> list[StoredCheckpoint]:
        """All stored checkpoints."""
        return read_checkpoints(self._cursor)

    def superseded(self) -> list[tuple[int, int]]:
        """The ranges that rollbacks hide."""
        return read_superseded(self._cursor, self._mark)

    def announcements(self) -> list[str]:
        """None: there are no incarnations here."""
        return []

    def outbox(self) -> tuple[int, float]:
        """There is none."""
        return 0, 0.0

    def _range(self, columns: str, first_seq: int, last_seq: int) -> None:
        self._cursor.execute(
            f"SELECT {columns} FROM audit_entries"
            f" WHERE seq BETWEEN {self._mark} AND {self._mark} ORDER BY seq",
            [first_seq, last_seq],
        )


def read_head(cursor: Any) -> tuple[int, bytes, int]:
    """Entries, last hash, and time of the last one in microseconds since 2000."""
    cursor.execute("SELECT seq, entry_hash, moment FROM audit_head")
    row = cursor.fetchone() or (0, GENESIS_HASH, 0)
    return row[0], bytes(row[1]), row[2]


def to_row(entry: AuditEntry) -> list[Any]:
    """The parameters of an insert: texts as the bytes that were hashed."""
    values: list[Any] = []
    for name, value in entry._asdict().items():
        if name in ("previous_hash", "entry_hash"):
            value = bytes.fromhex(value)
        elif isinstance(value, datetime):
            value = microseconds(value)
        elif isinstance(value, str):
            value = value.encode()
        values.append(value)
    return values


def from_row(row: Sequence[Any]) -> AuditEntry:
    """The inverse of :func:`to_row`."""
    return AuditEntry(
        row[0],
        bytes(row[1]).hex(),
        moment_of(row[2]),
        *(to_text(value) for value in row[3:-1]),  # type: ignore[arg-type]
        entry_hash=bytes(row[-1]).hex(),
    )  # type: ignore[misc]


def to_text(value: Any) -> str | None:
    """Text of a column; drivers differ in what they give for bytes."""
    if value is None or isinstance(value, str):
        return value
    return bytes(value).decode()


def read_checkpoints(cursor: Any) -> list[StoredCheckpoint]:
    """All stored checkpoints, by size."""
    cursor.execute(f"SELECT {CHECKPOINT_COLUMNS} FROM audit_checkpoints ORDER BY size")
    return [
        StoredCheckpoint(
            to_text(row[0]) or "",
            row[1],
            bytes(row[2]),
            bytes(row[3]),
            bytes(row[4]),
            to_text(row[5]) or "",
            moment_of(row[6]),
        )
        for row in cursor.fetchall()
    ]


def read_superseded(cursor: Any, mark: str) -> list[tuple[int, int]]:
    """``(last kept seq, marker seq)`` of each rollback."""
    cursor.execute(
        f"SELECT seq, data FROM audit_entries WHERE action = {mark} ORDER BY seq",
        [ROLLBACK.encode()],
    )
    return [
        (int(json.loads(to_text(data) or "{}")["to_seq"]), seq) for seq, data in cursor.fetchall()
    ]
