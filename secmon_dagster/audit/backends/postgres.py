"""The chain in PostgreSQL, with all its guarantees: one function appends, nobody else may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolTimeout

from secmon_dagster import database
from secmon_dagster.audit.backends.postgres_snapshot import (
    SELECT_CHECKPOINTS,
    PostgresSnapshot,
    read_head,
)
from secmon_dagster.audit.backends.text_array import TextArray, TextArrayDumper
from secmon_dagster.audit.entry import DRAFT_FIELDS, FIELDS, AuditEntry, Draft, Head, Receipt
from secmon_dagster.audit.forking import forget_after_fork, keep
from secmon_dagster.audit.store import BULK, Query, StoredCheckpoint, batches
from secmon_dagster.database import Role, connection_parameters
from secmon_dagster.errors import (
    AuditError,
    DatabaseUnavailableError,
    EntryRefusedError,
    NotFoundError,
    PermissionDeniedError,
    SchemaError,
)

# A second attempt is safe: the entry id makes an append idempotent.
ATTEMPTS = 3
RETRY_SECONDS = 0.2
LOCK_TIMEOUT_MS = 10_000

# Rendered once: composing the statement anew would cost as much as an append.
_APPEND, _APPEND_BULK = (
    sql.SQL("SELECT {} FROM secmon.audit_append_batch({})")
    .format(sql.SQL(answer), sql.SQL(", ").join([sql.SQL("%b")] * len(DRAFT_FIELDS)))
    .as_bytes()
    for answer in ('entry_id, seq, "timestamp", entry_hash', "count(*)")
)
_COLUMNS = sql.SQL(", ").join(
    sql.SQL("encode({}, 'hex')").format(sql.Identifier(name))
    if name in ("previous_hash", "entry_hash")
    else sql.Identifier(name)
    for name in FIELDS
)


class PostgresStore:
    """A chain in PostgreSQL.

    Args:
        url: another server's or database's URL; None means the project's own.
        role: whose rights reads and appends have.
        synchronous_commit: ``on`` or stronger keeps the promise that an appended entry is durable.
        pool_size: connections for reads.
        check: test a pooled connection before each use.
    """

    name = "postgresql"

    def __init__(
        self,
        url: str | None = None,
        *,
        role: Role = Role.SERVICE,
        synchronous_commit: str = "on",
        pool_size: int = 10,
        check: bool = False,
    ) -> None:
        self._url = None if url is None else "postgresql:" + url.partition(":")[2]
        self._role = role
        self._synchronous_commit = synchronous_commit
        self._pool_size = pool_size
        self._check = check
        self._writer: psycopg.Connection[Any] | None = None
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._forget()
        forget_after_fork(self)
        self._ensure_schema()

    # --- connections ------------------------------------------------------------------------------

    def parameters(self, role: Role | None = None) -> dict[str, Any]:
        """libpq parameters of this store's connections."""
        return connection_parameters(role or self._role, self._url)

    def connect(self, role: Role | None = None, **more: Any) -> psycopg.Connection[Any]:
        """One connection of its own."""
        try:
            return psycopg.connect(**self.parameters(role), **more)
        except psycopg.OperationalError as refused:
            raise _unavailable(refused) from None

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = ConnectionPool(
                        kwargs=self.parameters() | {"autocommit": True},
                        min_size=0,
                        max_size=self._pool_size,
                        max_idle=60.0,
                        timeout=10.0,
                        check=ConnectionPool.check_connection if self._check else None,
                        name="secmon-audit",
                        open=True,
                    )
        try:
            with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            self.connect().close()  # says why, if it still does not answer
            raise DatabaseUnavailableError("no connection became free within 10 s") from None

    def _forget(self) -> None:
        """After a fork the parent's sockets are the parent's: forget them without closing."""
        keep(self._writer, self._pool)
        self._lock = threading.Lock()
        self._writer = self._pool = None

    def _write_connection(self) -> psycopg.Connection[Any]:
        if self._writer is None or self._writer.closed:
            parameters = self.parameters()
            parameters["options"] = " ".join(
                [
                    parameters.get("options", ""),
                    f"-c synchronous_commit={self._synchronous_commit}",
                    f"-c lock_timeout={LOCK_TIMEOUT_MS}",
                    "-c default_transaction_isolation=read\\ committed",
                ]
            )
            parameters["client_encoding"] = "UTF8"
            self._writer = psycopg.connect(**parameters, autocommit=True, prepare_threshold=0)
            self._writer.adapters.register_dumper(TextArray, TextArrayDumper)
        return self._writer

    def _ensure_schema(self) -> None:
        with self.connect(Role.ADMIN) as connection:
            found = connection.execute("SELECT to_regclass('secmon.audit_head')").fetchone()
        if found is not None and found[0] is not None:
            return
        if self._url is None:
            raise SchemaError(
                "the database has no audit chain yet", hint="Run `secmon db migrate`."
            )
        database.migrate(self._url)

    def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
        if self._writer is not None:
            self._writer.close()
        self._pool = self._writer = None

    # --- writing ----------------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft]) -> list[Receipt]:
        """Append all or nothing; durable on return.

        Raises:
            EntryRefusedError: the database refused an entry.
            DatabaseUnavailableError: no answer after several attempts. Whether the entries are in
                the chain is then unknown; appending them again with the same ids is safe.
            AuditError: another session holds the chain's head.
        """
        return list(map(Receipt._make, self._send(_APPEND, _columns(drafts))))

    def append_bulk(self, drafts: Iterable[Draft]) -> None:
        """As :meth:`append`, a batch a transaction, without receipts: they would take a sixth of
        the time. While the server has one batch the next is made and encoded."""
        with ThreadPoolExecutor(1, thread_name_prefix="audit-bulk") as sending:
            sent: Future[object] | None = None
            try:
                for batch in batches(drafts):
                    columns = _columns(batch)
                    if sent is not None:
                        sent.result()
                    if len(batch) < BULK:  # the last, or large: no work beside it worth a thread
                        self._send(_APPEND_BULK, columns)
                    else:
                        sent = sending.submit(self._send, _APPEND_BULK, columns)
            finally:  # whoever learns that a later entry is wrong takes the earlier for appended
                if sent is not None:
                    sent.result()

    def _send(self, statement: bytes, columns: list[TextArray]) -> list[tuple[Any, ...]]:
        return self._write(lambda c: c.execute(statement, columns).fetchall())

    def rollback(
        self, target: bytes, marker_id: str, actor: str, details: str | None
    ) -> tuple[int | None, int]:
        """Supersede all after ``target`` by a marker.

        Raises:
            NotFoundError: no entry has this hash.
        """
        row = self._write(
            lambda c: c.execute(
                "SELECT marker_seq, removed FROM secmon.audit_rollback(%s, %s, %s, %s)",
                (target, marker_id, actor, details),
            ).fetchone()
        )
        assert row is not None
        return row[0], row[1]

    def next_incarnation(self) -> int:
        """Count a restore; needs the migrating user's rights."""
        with self.connect(Role.ADMIN) as connection:
            row = connection.execute(
                "UPDATE secmon.audit_head SET incarnation = incarnation + 1 RETURNING incarnation"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def sequence(self, most: int) -> int:
        """Move outbox rows into the chain."""
        row = self._write(
            lambda c: c.execute("SELECT secmon.audit_sequence_batch(%s)", (most,)).fetchone()
        )
        assert row is not None
        return int(row[0])

    def save_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Keep a signed checkpoint."""
        self._write(
            lambda c: c.execute(
                "INSERT INTO secmon.audit_checkpoints"
                " (origin, size, root, peaks, last_hash, note, created_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (
                    checkpoint.origin,
                    checkpoint.size,
                    checkpoint.root,
                    checkpoint.peaks,
                    checkpoint.last_hash,
                    checkpoint.note,
                    checkpoint.created_at,
                ),
            )
        )

    def _write(self, statement: Callable[[psycopg.Connection[Any]], _T]) -> _T:
        """Run a statement on the one writing connection, again after a lost connection."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._lock:
                    return statement(self._write_connection())
            except (psycopg.OperationalError, psycopg.InterfaceError) as lost:
                if isinstance(lost, psycopg.errors.LockNotAvailable):
                    raise AuditError(
                        f"the chain's head was locked by another session for {LOCK_TIMEOUT_MS} ms",
                        hint="Look for it in pg_locks; nothing was appended.",
                    ) from None
                if attempt == ATTEMPTS:
                    raise _unavailable(lost) from None
                time.sleep(RETRY_SECONDS * attempt)
            except psycopg.Error as refused:
                raise _refusal(refused) from None
        raise AssertionError("unreachable")

    # --- reading ----------------------------------------------------------------------------------

    def head(self) -> Head:
        """The end of the chain."""
        with self._reading() as connection:
            return read_head(connection)

    def clock(self) -> datetime:
        """The server's time."""
        with self._reading() as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def get(self, entry_id: str) -> AuditEntry | None:
        """The entry with this id."""
        with self._reading() as connection:
            row = connection.execute(
                sql.SQL("SELECT {} FROM secmon.audit_entries WHERE entry_id = %s").format(_COLUMNS),
                (entry_id,),
            ).fetchone()
        return None if row is None else AuditEntry._make(row)

    def find(self, query: Query) -> list[AuditEntry]:
        """Entries by ``query``."""
        conditions = query.conditions()
        view = "audit_entries" if query.include_superseded else "audit_effective"
        statement = sql.SQL("SELECT {} FROM secmon.{} WHERE {} ORDER BY seq {} LIMIT %s").format(
            _COLUMNS,
            sql.Identifier(view),
            sql.SQL(" AND ").join(
                [
                    sql.SQL("{} {} %s").format(sql.Identifier(column), sql.SQL(operator))
                    for column, operator, _ in conditions
                ]
            )
            if conditions
            else sql.SQL("TRUE"),
            sql.SQL("DESC" if query.newest_first else "ASC"),
        )
        with self._reading() as connection:
            rows = connection.execute(
                statement,
                [*(value for _, _, value in conditions), query.limit],
                prepare=True,
                binary=True,
            ).fetchall()
        return list(map(AuditEntry._make, rows))

    def statistics(self) -> dict[str, Any]:
        """Counts over the chain; superseded entries count, archived ones only in the total."""
        with self._reading() as connection:
            head = read_head(connection)
            actions = connection.execute(
                "SELECT action, count(*) FROM secmon.audit_entries"
                " GROUP BY action ORDER BY 2 DESC, 1"
            ).fetchall()
            levels = connection.execute(
                "SELECT level, count(*) FROM secmon.audit_entries GROUP BY level ORDER BY 1"
            ).fetchall()
            rest = connection.execute(
                'SELECT count(DISTINCT actor), min("timestamp"), max("timestamp"),'
                " (SELECT count(*) FROM secmon.audit_outbox),"
                " (SELECT size FROM secmon.audit_checkpoints"
                "   ORDER BY created_at DESC, size DESC LIMIT 1) FROM secmon.audit_entries"
            ).fetchone()
        assert rest is not None
        return {
            "total_entries": head.seq,
            "unique_actors": rest[0],
            "action_counts": dict(actions),
            "level_counts": dict(levels),
            "first_timestamp": rest[1] and rest[1].isoformat(),
            "last_timestamp": rest[2] and rest[2].isoformat(),
            "outbox": rest[3],
            "checkpoint_size": rest[4] or 0,
        }

    def latest_checkpoint(self) -> StoredCheckpoint | None:
        """The last one made. After a restore larger ones are over entries that were lost."""
        with self._reading() as connection:
            row = connection.execute(
                f"{SELECT_CHECKPOINTS} ORDER BY created_at DESC, size DESC LIMIT 1"
            ).fetchone()
        return None if row is None else StoredCheckpoint(*row)

    @contextmanager
    def snapshot(self) -> Iterator[PostgresSnapshot]:
        """A repeatable-read view on a connection of its own."""
        with self.connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield PostgresSnapshot(connection, self.parameters())

    def guarantees(self) -> dict[str, str]:
        """What is prevented, detected or not seen."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_event_trigger"
                " WHERE evtname LIKE 'secmon_audit_%' AND evtenabled = 'A'"
            ).fetchone()
        owner = "prevented" if row == (2,) else "detected if covered by a checkpoint"
        covered = "detected if covered by a checkpoint that somebody else holds"
        return {
            "update, delete, insert or truncate as an application role": "prevented",
            "alter, drop or disable triggers as the table's owner": owner,
            "edit by a superuser without recomputing hashes": "detected",
            "edit by a superuser with all hashes recomputed": covered,
            "truncated tail, replaced log, restored backup": covered,
            "changes newer than the last checkpoint by a superuser": "not detected",
            "a false statement at append": "not detected; bounded by the database's clock",
        }


_T = TypeVar("_T")


def _unavailable(refused: psycopg.Error) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"PostgreSQL does not answer: {' '.join(str(refused).split())}",
        hint="If this was an append, repeating it with the same entry_id is safe.",
    )


def _refusal(refused: psycopg.Error) -> Exception:
    """An error of ours for the server's answer."""
    diagnosis = refused.diag
    reason = diagnosis.message_primary or str(refused)
    errors = psycopg.errors
    if isinstance(refused, errors.NoDataFound):
        return NotFoundError(reason)
    if isinstance(refused, errors.InsufficientPrivilege):
        return PermissionDeniedError(reason)
    if isinstance(refused, errors.IntegrityError | errors.DataError):
        return EntryRefusedError(f"the database refused the entry: {reason}")
    if isinstance(refused, errors.UndefinedTable | errors.UndefinedFunction):
        return SchemaError(reason, hint="Run `secmon db migrate`.")
    return AuditError(f"the database refused: {reason}")


def _columns(drafts: Sequence[Draft]) -> list[TextArray]:
    return [TextArray.of(column) for column in zip(*drafts, strict=True)]
