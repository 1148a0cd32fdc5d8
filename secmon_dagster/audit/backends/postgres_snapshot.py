"""One repeatable-read view of a chain in PostgreSQL; other processes can join it."""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.pq import ExecStatus, TransactionStatus

from secmon_dagster.audit.encoding import (
    COPY_HEADER_BYTES,
    COPY_TRAILER,
    decode_row,
    expected_hash,
)
from secmon_dagster.audit.entry import FIELDS, INCARNATION, ROLLBACK, Head
from secmon_dagster.audit.store import Segment, StoredCheckpoint
from secmon_dagster.errors import AuditError, ChainTamperedError

SELECT_CHECKPOINTS = (
    "SELECT origin, size, root, peaks, last_hash, note, created_at FROM secmon.audit_checkpoints"
)

_ROWS = sql.SQL(
    "COPY (SELECT {} FROM secmon.audit_entries WHERE seq BETWEEN {} AND {} ORDER BY seq)"
    " TO STDOUT (FORMAT BINARY)"
)
_ROW_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, FIELDS))
# Without statistics (after a bulk append) the planner would sort what an index has in order.
_READING = "SET LOCAL statement_timeout = 0; SET LOCAL enable_sort = off; SET LOCAL jit = off"

_CSV = sql.SQL(
    "COPY (SELECT {}, NULL FROM secmon.audit_entries WHERE seq BETWEEN {} AND {} ORDER BY seq)"
    " TO STDOUT (FORMAT CSV)"
)


def _csv_column(name: str) -> sql.Composable:
    """``export.safe_cell`` in SQL: 0 is the empty text, the others = + - @ tab return and quote."""
    column = sql.Identifier(name)
    if name in ("seq", "timestamp", "level"):
        return column
    if name in ("previous_hash", "entry_hash"):
        return sql.SQL("encode({}, 'hex')").format(column)
    return sql.SQL(
        "CASE WHEN ascii({0}) IN (0, 61, 43, 45, 64, 9, 13, 39) THEN '''' || {0} ELSE {0} END"
    ).format(column)


_CSV_COLUMNS = sql.SQL(", ").join(map(_csv_column, FIELDS))


def read_head(connection: psycopg.Connection[Any]) -> Head:
    """The end of the chain.

    Raises:
        ChainTamperedError: the row is missing, which only a superuser can have done.
    """
    row = connection.execute(
        "SELECT seq, entry_hash, incarnation FROM secmon.audit_head"
    ).fetchone()
    if row is None:
        raise ChainTamperedError("the head of the audit chain is missing")
    return Head(*row)


def copy_rows(
    connection: psycopg.Connection[Any], first_seq: int, last_seq: int
) -> Iterator[bytes]:
    """COPY tuples of the entries in a range, by seq. Who stops before the end ends the connection.

    Straight on libpq: the driver's own iterator costs as much a row as one of its hashes.

    Raises:
        AuditError: the server broke off.
    """
    # ORDER BY: concurrent sequential scans may start in the middle of a table.
    statement = _ROWS.format(_ROW_COLUMNS, sql.Literal(first_seq), sql.Literal(last_seq))
    server = connection.pgconn
    started = server.exec_(statement.as_bytes(connection))
    if started.status != ExecStatus.COPY_OUT:
        raise AuditError(f"the entries can't be read: {started.get_error_message()}")
    receive, header = server.get_copy_data, True
    try:
        while (received := receive(1))[0] >= 0:
            size, row = received
            if not size:
                select.select([server.socket], [], [])
                server.consume_input()
                continue
            if header:
                row, header = row[COPY_HEADER_BYTES:], False
            if row and row != COPY_TRAILER:
                yield bytes(row)
        ended = server.get_result()
        if received[0] == -2 or ended is None or ended.status != ExecStatus.COMMAND_OK:
            raise AuditError(f"the entries can't be read: {server.get_error_message()}")
        server.get_result()
    finally:
        if server.transaction_status == TransactionStatus.ACTIVE:
            connection.close()


def join(connection: psycopg.Connection[Any], snapshot_id: str) -> None:
    """See what an exported snapshot sees, from the first statement on."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_id)))
    connection.execute(_READING)


class PostgresSnapshot:
    """A view of the chain at one moment.

    Args:
        connection: inside no transaction yet, set to repeatable read.
        parameters: libpq parameters with which another process can connect likewise.
    """

    def __init__(self, connection: psycopg.Connection[Any], parameters: dict[str, Any]) -> None:
        self.connection = connection
        self.parameters = parameters
        connection.execute(_READING)
        self.head = read_head(connection)
        self.segments = self._segments()

    def export(self) -> str:
        """A name under which other connections can join, while this one lives."""
        row = self.connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        return str(row[0])

    def rows(self, first_seq: int, last_seq: int) -> Iterator[bytes]:
        """COPY tuples of the entries in this range."""
        return copy_rows(self.connection, first_seq, last_seq)

    def csv(self, first_seq: int, last_seq: int) -> Iterator[Buffer]:
        """The entries as CSV lines with one more, empty column; no cell is a formula."""
        self.connection.execute("SET LOCAL TimeZone = 'UTC'")
        statement = _CSV.format(_CSV_COLUMNS, sql.Literal(first_seq), sql.Literal(last_seq))
        with self.connection.cursor().copy(statement) as copy:
            yield from copy

    def leaves(self, first_seq: int, last_seq: int) -> Sequence[bytes]:
        """Entry hashes of the range, archived ones too."""
        hashes: list[bytes] = []
        for segment in self.segments:
            first, last = max(first_seq, segment.first_seq), min(last_seq, segment.last_seq)
            if first > last:
                continue
            hashes += (
                self._archived_leaves(first, last) if segment.archived else self._live(first, last)
            )
        return hashes

    def seq_at(self, moment: datetime) -> int:
        """The last seq whose time is not after ``moment``."""
        row = self.connection.execute(
            'SELECT seq FROM secmon.audit_entries WHERE "timestamp" <= %s'
            ' ORDER BY "timestamp" DESC, seq DESC LIMIT 1',
            (moment,),
        ).fetchone()
        return 0 if row is None else int(row[0])

    def checkpoints(self) -> list[StoredCheckpoint]:
        """All stored checkpoints."""
        rows = self.connection.execute(f"{SELECT_CHECKPOINTS} ORDER BY size, created_at").fetchall()
        return [StoredCheckpoint(*row) for row in rows]

    def superseded(self) -> list[tuple[int, int]]:
        """``(last kept seq, marker seq)`` of each rollback."""
        return self.connection.execute(
            "SELECT after_seq, marker_seq FROM secmon.audit_superseded() ORDER BY marker_seq"
        ).fetchall()

    def announcements(self) -> list[str]:
        """The data of the entries that announce an incarnation, those in archives too."""
        kept = self.connection.execute(
            "SELECT DISTINCT unnest(announcements) FROM secmon.audit_archives"
        ).fetchall()
        rows = self.connection.execute(
            "SELECT data FROM secmon.audit_entries WHERE action = %s ORDER BY seq", (INCARNATION,)
        ).fetchall()
        return [
            *filter(None, map(self._announced, (row for (row,) in kept))),
            *(r[0] for r in rows),
        ]

    def announcement_rows(self, first_seq: int, last_seq: int) -> list[bytes]:
        """COPY tuples of the announcements in this range, of incarnations and of rollbacks."""
        found = self.connection.execute(
            "SELECT seq FROM secmon.audit_entries WHERE action = ANY (%s)"
            " AND seq BETWEEN %s AND %s ORDER BY seq",
            ([INCARNATION, ROLLBACK], first_seq, last_seq),
        ).fetchall()
        return [row for (seq,) in found for row in self.rows(seq, seq)]

    def _announced(self, row: bytes) -> str | None:
        """The data of a kept announcement; None if it is not the entry that is in the tree."""
        try:
            entry = decode_row(row)
        except ValueError:
            return None
        is_leaf = self.leaves(entry.seq, entry.seq) == [expected_hash(entry)]
        return entry.data if is_leaf and entry.action == INCARNATION else None

    def outbox(self) -> tuple[int, float]:
        """Entries waiting, and the age in seconds of the oldest."""
        row = self.connection.execute(
            "SELECT count(*), COALESCE(extract(epoch FROM clock_timestamp() - min(enqueued_at)), 0)"
            " FROM secmon.audit_outbox"
        ).fetchone()
        assert row is not None
        return int(row[0]), float(row[1])

    def _segments(self) -> tuple[Segment, ...]:
        """Archived stretches are those whose rows are gone; a restored one has its rows again."""
        archives = self.connection.execute(
            "SELECT DISTINCT a.first_seq, a.last_seq FROM secmon.audit_archives a WHERE NOT EXISTS"
            " (SELECT FROM secmon.audit_entries e WHERE e.seq BETWEEN a.first_seq AND a.last_seq)"
            " ORDER BY 1"
        ).fetchall()
        # Rows beyond the head would be rows nobody appended: they must be seen too.
        row = self.connection.execute("SELECT max(seq) FROM secmon.audit_entries").fetchone()
        assert row is not None
        end = max(self.head.seq, row[0] or 0)
        segments, at = [], 1
        for first, last in archives:
            if at < first:
                segments.append(Segment(at, first - 1, archived=False))
            segments.append(Segment(first, last, archived=True))
            at = last + 1
        if at <= end:
            segments.append(Segment(at, end, archived=False))
        return tuple(segments)

    def _live(self, first: int, last: int) -> list[bytes]:
        rows = self.connection.execute(
            "SELECT entry_hash FROM secmon.audit_entries WHERE seq BETWEEN %s AND %s ORDER BY seq",
            (first, last),
            binary=True,
        ).fetchall()
        return [row[0] for row in rows]

    def _archived_leaves(self, first: int, last: int) -> list[bytes]:
        hashes: list[bytes] = []
        for start, stop, packed in self.connection.execute(
            "SELECT first_seq, last_seq, entry_hashes FROM secmon.audit_leaves"
            " WHERE last_seq >= %s AND first_seq <= %s ORDER BY first_seq",
            (first, last),
            binary=True,
        ):
            for seq in range(max(start, first), min(stop, last) + 1):
                at = 32 * (seq - start)
                hashes.append(packed[at : at + 32])
        return hashes
