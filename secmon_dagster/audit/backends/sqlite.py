"""The chain in a SQLite file: for one machine, for development, as a library."""
# ruff: noqa: S608 - built from this package's constants

from __future__ import annotations

import getpass
import sqlite3
from pathlib import Path
from typing import Any

from secmon_dagster.audit.backends.dbapi import DbApiStore
from secmon_dagster.audit.entry import FIELDS
from secmon_dagster.errors import DatabaseUnavailableError, InvalidInputError

BUSY_SECONDS = 10.0

# Text is kept as the bytes that were hashed: SQLite would let a number be told apart from its text.
_NULLABLE = {"event_type", "resource_id", "execution_id", "job_id", "data", "data_hash", "details"}
_TYPES = {"seq": "INTEGER PRIMARY KEY", "timestamp": "INTEGER NOT NULL"}
_ENTRIES = ", ".join(
    f"{name} {_TYPES.get(name, 'BLOB' if name in _NULLABLE else 'BLOB NOT NULL')}"
    for name in FIELDS
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS audit_entries ({_ENTRIES});
CREATE UNIQUE INDEX IF NOT EXISTS audit_entries_entry_id ON audit_entries (entry_id);
CREATE INDEX IF NOT EXISTS audit_entries_actor ON audit_entries (actor, seq);
CREATE INDEX IF NOT EXISTS audit_entries_action ON audit_entries (action, seq);
CREATE INDEX IF NOT EXISTS audit_entries_resource
  ON audit_entries (resource_type, resource_id, seq);
CREATE INDEX IF NOT EXISTS audit_entries_timestamp ON audit_entries (timestamp);
CREATE TABLE IF NOT EXISTS audit_head (
  id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, entry_hash BLOB NOT NULL,
  moment INTEGER NOT NULL);
INSERT OR IGNORE INTO audit_head VALUES (1, 0, zeroblob(32), 0);
CREATE TABLE IF NOT EXISTS audit_checkpoints (
  origin BLOB NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, peaks BLOB NOT NULL,
  last_hash BLOB NOT NULL, note BLOB NOT NULL, created_at INTEGER NOT NULL,
  PRIMARY KEY (origin, size));
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{act} BEFORE {act.upper()} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;\n"
    for table in ("audit_entries", "audit_checkpoints")
    for act in ("update", "delete")
)


class SqliteStore(DbApiStore):
    """A chain in a file.

    Args:
        url: ``sqlite:///FILE``.

    Raises:
        InvalidInputError: no file is named.
        DatabaseUnavailableError: the file can't be opened, or is no database.
    """

    name = "sqlite"
    mark = "?"

    def __init__(self, url: str) -> None:
        self.path = Path(url.partition(":///")[2])
        if self.path.name in ("", ":memory:"):
            # Each connection would have a database of its own.
            raise InvalidInputError.of("database_url", url, "sqlite:///FILE")
        super().__init__()

    def _connect(self) -> Any:
        try:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # Readers see one state while a writer goes on; FULL makes a commit durable.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as failed:
            raise DatabaseUnavailableError(f"{self.path} can't be opened: {failed}") from None
        return connection

    @property
    def _driver_error(self) -> type[Exception]:
        return sqlite3.Error

    def _make_schema(self, connection: Any) -> None:
        connection.executescript(_SCHEMA)

    def _begin_write(self, cursor: Any) -> None:
        # A plain BEGIN would take the lock at the first write, after the head was read: a fork.
        cursor.execute("BEGIN IMMEDIATE")

    def _begin_read(self, cursor: Any) -> None:
        cursor.execute("BEGIN")

    def _user(self, cursor: Any) -> str:
        return getpass.getuser()

    def guarantees(self) -> dict[str, str]:
        """Whoever may write the file may write anything: most is detected, little prevented."""
        covered = "detected if covered by a checkpoint that somebody else holds"
        return {
            "update or delete through the application": "prevented by triggers",
            "insert past the application": "detected if its hash does not fit",
            "drop triggers, then edit without recomputing hashes": "detected",
            "edit by whoever can write the file, all hashes recomputed": covered,
            "truncated tail, replaced file, restored backup": covered,
            "changes newer than the last checkpoint by whoever can write the file": "not detected",
            "a false statement at append": "not detected; the clock is the application's",
        }
