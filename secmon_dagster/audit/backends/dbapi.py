"""A chain in a database without privileged functions: the same entries, hashes and checkpoints,
but this process computes them, so whoever may append may also write what it likes."""
# ruff: noqa: S608 - columns and marks are this package's constants, values are parameters

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from secmon_dagster.audit.backends.dbapi_rows import (
    CHECKPOINT_COLUMNS,
    COLUMNS,
    DbApiSnapshot,
    from_row,
    read_checkpoints,
    read_head,
    read_superseded,
    to_row,
    to_text,
)
from secmon_dagster.audit.encoding import (
    content_hash,
    entry_hash,
    microseconds,
    moment_of,
)
from secmon_dagster.audit.entry import (
    DRAFT_FIELDS,
    FIELDS,
    ROLLBACK,
    AuditEntry,
    Draft,
    Head,
    Receipt,
    data_hash,
)
from secmon_dagster.audit.forking import forget_after_fork, keep
from secmon_dagster.audit.store import Query, StoredCheckpoint, batches
from secmon_dagster.errors import DatabaseUnavailableError, EntryRefusedError, NotFoundError

_LOOKUP = 500


class DbApiStore(ABC):
    """A chain in a database with a DB-API driver.

    Subclasses say how to connect, how a parameter is written, and how a write begins so that no
    other writer can read the same head.
    """

    name: str
    mark: str

    def __init__(self) -> None:
        self._writer: Any = None
        self._forget()
        forget_after_fork(self)
        with self._connection() as connection:
            self._make_schema(connection)

    @abstractmethod
    def _connect(self) -> Any:
        """A new connection in autocommit mode."""

    @abstractmethod
    def _make_schema(self, connection: Any) -> None:
        """Tables, the head's row and triggers; idempotent."""

    @property
    @abstractmethod
    def _driver_error(self) -> type[Exception]:
        """Base of the driver's exceptions."""

    @abstractmethod
    def _begin_write(self, cursor: Any) -> None:
        """Begin a transaction that keeps all other writers out."""

    @abstractmethod
    def _begin_read(self, cursor: Any) -> None:
        """Begin a transaction that sees one state."""

    @abstractmethod
    def _user(self, cursor: Any) -> str:
        """Who is connected."""

    @abstractmethod
    def guarantees(self) -> dict[str, str]:
        """What is prevented, detected or not seen."""

    # --- writing ----------------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Append all or nothing; idempotent by entry id."""
        with self._writing() as cursor:
            return self._append(cursor, drafts)

    def append_bulk(self, drafts: Iterable[Draft]) -> None:
        """As :meth:`append`, a batch a transaction."""
        for batch in batches(drafts):
            self.append(batch)

    def rollback(
        self, target: bytes, marker_id: str, actor: str, details: str | None
    ) -> tuple[int | None, int]:
        """Supersede all after ``target`` by a marker.

        Raises:
            NotFoundError: no entry has this hash.
        """
        with self._writing() as cursor:
            head = read_head(cursor)
            cursor.execute(
                self._sql("SELECT seq FROM audit_entries WHERE entry_hash = ?"), [target]
            )
            row = cursor.fetchone()
            if row is None:
                raise NotFoundError(f"no entry has the hash {target.hex()}")
            removed = head[0] - row[0]
            if not removed:
                return None, 0
            content = {
                "count": removed,
                "from_hash": head[1].hex(),
                "from_seq": head[0],
                "to_hash": target.hex(),
                "to_seq": row[0],
            }
            text = json.dumps(content, separators=(",", ":"))
            marker = Draft(
                marker_id, "warn", "config.change", ROLLBACK, actor, "audit_chain",
                None, None, None, text, details,
            )  # fmt: skip
            return self._append(cursor, [marker])[0].seq, removed

    def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Keep a signed checkpoint."""
        with self._writing() as cursor:
            cursor.execute(
                self._sql("SELECT 1 FROM audit_checkpoints WHERE origin = ? AND size = ?"),
                [checkpoint.origin.encode(), checkpoint.size],
            )
            if cursor.fetchone() is None:
                marks = ", ".join("?" * 7)
                cursor.execute(
                    self._sql(
                        f"INSERT INTO audit_checkpoints ({CHECKPOINT_COLUMNS}) VALUES ({marks})"
                    ),
                    [
                        checkpoint.origin.encode(),
                        checkpoint.size,
                        checkpoint.root,
                        checkpoint.peaks,
                        checkpoint.last_hash,
                        checkpoint.note.encode(),
                        microseconds(checkpoint.created_at),
                    ],
                )

    def sequence(self, most: int) -> int:
        """Nothing to do: the outbox lives in the business database, which is PostgreSQL."""
        return 0

    def _append(self, cursor: Any, drafts: Sequence[Draft]) -> list[Receipt]:
        known = self._known(cursor, [draft.entry_id for draft in drafts])
        seq, last, moment_before = read_head(cursor)
        moment = moment_of(max(microseconds(datetime.now(UTC)), moment_before))
        user = self._user(cursor)
        receipts, rows = [], []
        for draft in drafts:
            entry = known.get(draft.entry_id)
            if entry is None:
                seq += 1
                fields = draft._asdict()
                fields |= {"db_user": user, "data_hash": data_hash(draft.data)}
                # As in ``AuditEntry``: from db_user to details.
                content = content_hash(fields[name] for name in FIELDS[3:-1])
                digest = entry_hash(seq, last, moment, content)
                entry = AuditEntry(
                    seq=seq,
                    previous_hash=last.hex(),
                    timestamp=moment,
                    entry_hash=digest.hex(),
                    **fields,
                )
                known[draft.entry_id] = entry
                rows.append(to_row(entry))
                last = digest
            elif any(getattr(entry, name) != getattr(draft, name) for name in DRAFT_FIELDS):
                raise EntryRefusedError(f"entry_id {draft.entry_id!r} names another entry already")
            receipts.append(
                Receipt(entry.entry_id, entry.seq, entry.timestamp, bytes.fromhex(entry.entry_hash))
            )
        if rows:
            columns, marks = ", ".join(FIELDS), ", ".join("?" * len(FIELDS))
            cursor.executemany(
                self._sql(f"INSERT INTO audit_entries ({columns}) VALUES ({marks})"), rows
            )
            cursor.execute(
                self._sql("UPDATE audit_head SET seq = ?, entry_hash = ?, moment = ?"),
                [seq, last, microseconds(moment)],
            )
        return receipts

    def _known(self, cursor: Any, ids: Sequence[str]) -> dict[str, AuditEntry]:
        found: dict[str, AuditEntry] = {}
        for start in range(0, len(ids), _LOOKUP):
            part = [entry_id.encode() for entry_id in ids[start : start + _LOOKUP]]
            marks = ", ".join("?" * len(part))
            cursor.execute(
                self._sql(f"SELECT {COLUMNS} FROM audit_entries WHERE entry_id IN ({marks})"), part
            )
            found |= {entry.entry_id: entry for entry in map(from_row, cursor.fetchall())}
        return found

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._lock:
            try:
                cursor = self._begun()
                yield cursor
                cursor.execute("COMMIT")
                cursor.close()
            except self._driver_error as failed:
                self._give_up()
                raise DatabaseUnavailableError(
                    f"{self.name} did not take it: {failed}",
                    hint="If this was an append, repeating it with the same entry_id is safe.",
                ) from failed
            except BaseException:
                self._give_up()
                raise

    def _begun(self) -> Any:
        """A cursor in a transaction that keeps all other writers out. A connection may have died
        since its last use, and nothing of this transaction was sent yet: so once more on a new one.
        """
        if self._writer is not None:
            try:
                return self._begin(self._writer)
            except self._driver_error:
                self._give_up()
        self._writer = self._connect()
        return self._begin(self._writer)

    def _begin(self, connection: Any) -> Any:
        cursor = connection.cursor()
        self._begin_write(cursor)
        return cursor

    def _give_up(self) -> None:
        """Close the writing connection, which undoes what it had begun."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(self._driver_error):
                writer.close()

    def _forget(self) -> None:
        """After a fork the parent's connection is the parent's."""
        keep(self._writer)
        self._lock = threading.Lock()
        self._writer = None

    # --- reading ----------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with self._connection() as connection:
            cursor = connection.cursor()
            self._begin_read(cursor)
            yield cursor
            cursor.execute("COMMIT")

    def head(self) -> Head:
        """The end of the chain."""
        with self._cursor() as cursor:
            seq, digest, _ = read_head(cursor)
        return Head(seq, digest, 1)

    def clock(self) -> datetime:
        """This process's time."""
        return datetime.now(UTC)

    def get(self, entry_id: str) -> AuditEntry | None:
        """The entry with this id."""
        with self._cursor() as cursor:
            return self._known(cursor, [entry_id]).get(entry_id)

    def find(self, query: Query) -> list[AuditEntry]:
        """Entries by ``query``."""
        words: list[str] = ["1 = 1"]
        values: list[Any] = []
        for column, operator, value in query.conditions():
            words.append(f"{column} {operator} ?")
            if isinstance(value, datetime):
                values.append(microseconds(value))
            else:
                values.append(value.encode() if isinstance(value, str) else value)
        with self._cursor() as cursor:
            if not query.include_superseded:
                for kept, marker in read_superseded(cursor, self.mark):
                    words.append("NOT (seq > ? AND seq < ?)")
                    values += [kept, marker]
            order = "DESC" if query.newest_first else "ASC"
            limit = 2**62 if query.limit is None else query.limit
            cursor.execute(
                self._sql(
                    f"SELECT {COLUMNS} FROM audit_entries WHERE {' AND '.join(words)}"
                    f" ORDER BY seq {order} LIMIT {int(limit)}"
                ),
                values,
            )
            return [from_row(row) for row in cursor.fetchall()]

    def statistics(self) -> dict[str, Any]:
        """Counts over the chain."""
        with self._cursor() as cursor:
            counts: list[dict[str, int]] = []
            for column in ("action", "level"):
                cursor.execute(f"SELECT {column}, count(*) FROM audit_entries GROUP BY {column}")
                counts.append({str(to_text(name)): int(n) for name, n in cursor.fetchall()})
            cursor.execute(
                "SELECT count(DISTINCT actor), min(timestamp), max(timestamp) FROM audit_entries"
            )
            actors, first, last = cursor.fetchone()
            cursor.execute("SELECT max(size) FROM audit_checkpoints")
            covered = cursor.fetchone()[0]
            total = read_head(cursor)[0]
        return {
            "total_entries": total,
            "unique_actors": actors,
            "action_counts": counts[0],
            "level_counts": counts[1],
            "first_timestamp": first and moment_of(first).isoformat(),
            "last_timestamp": last and moment_of(last).isoformat(),
            "outbox": 0,
            "checkpoint_size": covered or 0,
        }

    def latest_checkpoint(self) -> StoredCheckpoint | None:
        """The largest stored checkpoint."""
        with self._cursor() as cursor:
            return max(read_checkpoints(cursor), key=lambda c: c.size, default=None)

    @contextmanager
    def snapshot(self) -> Iterator[DbApiSnapshot]:
        """A consistent view."""
        with self._cursor() as cursor:
            yield DbApiSnapshot(cursor, self.mark)

    def close(self) -> None:
        """Give up the writing connection."""
        self._give_up()

    def _sql(self, statement: str) -> str:
        return statement if self.mark == "?" else statement.replace("?", self.mark)
