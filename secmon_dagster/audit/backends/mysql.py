"""The chain in MySQL or MariaDB."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from secmon_dagster.audit.backends.dbapi import DbApiStore
from secmon_dagster.audit.entry import FIELDS
from secmon_dagster.errors import DatabaseUnavailableError, SettingsError

# Bytes instead of text: exactly what was hashed, whatever the server's collation. MySQL allows
# 3072 bytes in a key.
_LONG = {"data", "details"}
_NULLABLE = {"event_type", "resource_id", "execution_id", "job_id", "data", "data_hash", "details"}
_FIXED = {
    "seq": "BIGINT NOT NULL PRIMARY KEY",
    "timestamp": "BIGINT NOT NULL",
    "previous_hash": "BINARY(32) NOT NULL",
    "entry_hash": "BINARY(32) NOT NULL",
}


def _type(name: str) -> str:
    kind = "LONGBLOB" if name in _LONG else "VARBINARY(1024)"
    return _FIXED.get(name, kind if name in _NULLABLE else f"{kind} NOT NULL")


_SCHEMA = [
    "CREATE TABLE IF NOT EXISTS audit_entries ("
    + ", ".join(f"{name} {_type(name)}" for name in FIELDS)
    + ", UNIQUE KEY (entry_id), KEY (actor), KEY (action), KEY (resource_type, resource_id),"
    " KEY (timestamp)) ENGINE = InnoDB",
    "CREATE TABLE IF NOT EXISTS audit_head (id INT PRIMARY KEY, seq BIGINT NOT NULL,"
    " entry_hash BINARY(32) NOT NULL, moment BIGINT NOT NULL) ENGINE = InnoDB",
    "INSERT IGNORE INTO audit_head VALUES (1, 0, REPEAT(CHAR(0), 32), 0)",
    "CREATE TABLE IF NOT EXISTS audit_checkpoints (origin VARBINARY(1024) NOT NULL,"
    " size BIGINT NOT NULL, root BINARY(32) NOT NULL, peaks BLOB NOT NULL,"
    " last_hash BINARY(32) NOT NULL, note BLOB NOT NULL, created_at BIGINT NOT NULL,"
    " PRIMARY KEY (origin, size)) ENGINE = InnoDB",
]
_TRIGGERS = [
    (f"{table}_no_{act}", f"BEFORE {act.upper()} ON {table}")
    for table in ("audit_entries", "audit_checkpoints")
    for act in ("update", "delete")
]


class MysqlStore(DbApiStore):
    """A chain in MySQL or MariaDB.

    Args:
        url: ``mysql://user:password@host:port/database``.

    Raises:
        SettingsError: the driver is not installed.
        DatabaseUnavailableError: nothing answers.
    """

    name = "mysql"
    mark = "%s"

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        super().__init__()

    def _connect(self) -> Any:
        try:
            import pymysql
        except ImportError:
            raise SettingsError(
                "a mysql:// chain needs pymysql", hint="Install secmon-dagster[mysql]."
            ) from None
        parts = self._parts
        try:
            return pymysql.connect(
                host=parts.hostname or "localhost",
                port=parts.port or 3306,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=unquote(parts.path.lstrip("/")),
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=10,
            )
        except pymysql.Error as refused:
            raise DatabaseUnavailableError(
                f"MySQL at {parts.hostname} does not answer: {refused.args[-1]}"
            ) from None

    @property
    def _driver_error(self) -> type[Exception]:
        import pymysql

        error: type[Exception] = pymysql.Error
        return error

    def _make_schema(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            for statement in _SCHEMA:
                cursor.execute(statement)
            cursor.execute(
                "SELECT trigger_name FROM information_schema.triggers"
                " WHERE trigger_schema = DATABASE()"
            )
            known = {row[0] for row in cursor.fetchall()}
            for name, when in _TRIGGERS:
                if name not in known:
                    cursor.execute(
                        f"CREATE TRIGGER {name} {when} FOR EACH ROW SIGNAL SQLSTATE '45000'"
                        " SET MESSAGE_TEXT = 'the audit log is append-only'"
                    )

    def _begin_write(self, cursor: Any) -> None:
        # Under the default REPEATABLE READ the head could be read from an older snapshot.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT seq FROM audit_head FOR UPDATE")

    def _begin_read(self, cursor: Any) -> None:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")

    def _user(self, cursor: Any) -> str:
        cursor.execute("SELECT CURRENT_USER()")
        return str(cursor.fetchone()[0])

    def guarantees(self) -> dict[str, str]:
        """The application's account writes the table itself: triggers stop edits, not inserts."""
        covered = "detected if covered by a checkpoint that somebody else holds"
        return {
            "update or delete as the application's account": "prevented by triggers",
            "TRUNCATE or DROP with the table's rights": covered,
            "insert past the application": "detected if its hash does not fit",
            "edit without recomputing hashes": "detected",
            "edit by an administrator, all hashes recomputed": covered,
            "truncated tail, replaced log, restored backup": covered,
            "changes newer than the last checkpoint by an administrator": "not detected",
            "a false statement at append": "not detected; the clock is the application's",
        }
