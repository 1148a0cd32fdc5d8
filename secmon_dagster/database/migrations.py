"""Numbered SQL files, applied in order by Alembic.

Alembic keeps the version and walks the revisions; a revision here is a plain file
``sql/NNNN_name.sql`` instead of a Python module, so that a reviewer reads SQL and a DBA can run it.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import psycopg
import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from secmon_dagster.database.engine import Role, connection_parameters, unavailable
from secmon_dagster.errors import SchemaError
from secmon_dagster.settings import PROJECT_ROOT

# Any constant will do; it must be the same for every process that migrates this database.
_LOCK_KEY = 0x5EC0_0A7C
_FILE_NAME = re.compile(r"(?P<revision>\d{4})_[a-z0-9_]+\.sql")


def sql_directory() -> Path:
    """In a checkout beside the package; in a wheel inside it."""
    beside = PROJECT_ROOT / "sql"
    return beside if beside.is_dir() else Path(__file__).resolve().parent.parent / "_sql"


def migration_files() -> list[Path]:
    """The migrations in their order."""
    return sorted(p for p in sql_directory().glob("*.sql") if _FILE_NAME.fullmatch(p.name))


def migrate(url: str | None = None) -> list[str]:
    """Bring the schema up to this code's version. Idempotent; safe from several processes at once.

    Args:
        url: another database's URL; None means the project's own.

    Returns:
        The names of the files applied now.

    Raises:
        SchemaError: the schema is newer than this code, or a file failed (nothing of it stays).
        DatabaseUnavailableError: nothing answers.
    """
    engine = _engine(url)
    try:
        connection = engine.connect()
    except sqlalchemy.exc.OperationalError as refused:
        raise unavailable(psycopg.OperationalError(str(refused.orig))) from None
    with connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK_KEY})")
        try:
            before = _current(connection)
            pending = _pending(before)
            if pending:
                _apply(connection)
            return pending
        except psycopg.Error as failed:
            raise _failure(failed) from failed
        except sqlalchemy.exc.DBAPIError as failed:
            raise _failure(failed.orig) from failed
        finally:
            connection.rollback()
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK_KEY})")
            connection.commit()


def pending_migrations() -> list[str]:
    """The names of the files not applied yet.

    Raises:
        SchemaError: the schema is newer than this code.
    """
    engine = _engine()
    try:
        with engine.connect() as connection:
            return _pending(_current(connection))
    except sqlalchemy.exc.OperationalError as refused:
        raise unavailable(psycopg.OperationalError(str(refused.orig))) from None


class _SqlScripts(ScriptDirectory):
    """Alembic's script directory over plain SQL files."""

    def _load_revisions(self) -> list[Script]:  # type: ignore[override]
        scripts, previous = [], None
        for path in migration_files():
            module = ModuleType(path.stem)
            revision = path.name[:4]
            module.__dict__.update(
                revision=revision,
                down_revision=previous,
                __doc__=path.stem,
                upgrade=lambda path=path: _run_file(path),
            )
            scripts.append(Script(module, revision, str(path)))
            previous = revision
        return scripts


def _engine(url: str | None = None) -> sqlalchemy.Engine:
    parameters = connection_parameters(Role.ADMIN, url)
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),
        poolclass=sqlalchemy.pool.NullPool,
    )


def _scripts() -> _SqlScripts:
    return _SqlScripts(str(sql_directory()))


def _current(connection: sqlalchemy.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": "secmon"})
    return context.get_current_revision()


def _pending(current: str | None) -> list[str]:
    files = migration_files()
    revisions = [path.name[:4] for path in files]
    if current is None:
        return [path.name for path in files]
    if current not in revisions:
        raise SchemaError(
            f"The schema is at version {current}, newer than this code ({revisions[-1]})",
            hint="Install the version of secmon-dagster that made it, or a newer one.",
        )
    return [path.name for path in files[revisions.index(current) + 1 :]]


def _apply(connection: sqlalchemy.Connection) -> None:
    # Alembic puts its version table here before the first file could make the schema.
    connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS secmon")
    connection.commit()
    scripts = _scripts()

    def steps(revision: object, _: MigrationContext) -> object:
        return scripts._upgrade_revs("head", revision)  # type: ignore[arg-type]

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(
            connection=connection, version_table_schema="secmon", transaction_per_migration=True
        )
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()


def _run_file(path: Path) -> None:
    from alembic import op

    text = path.read_text(encoding="utf-8")
    # psycopg sends a statement without parameters as it is, so a file may hold many of them.
    raw = op.get_bind().connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    first = path.name.startswith("0001")
    if not first:
        raw.execute("SET LOCAL ROLE secmon_owner")
    raw.execute(text)
    if not first:
        raw.execute("RESET ROLE")


def _failure(failed: BaseException | None) -> SchemaError:
    reason = " ".join(str(failed).split())
    return SchemaError(
        f"A migration failed and was undone: {reason}",
        hint="The URL's user must own the database and may need CREATEROLE or superuser rights.",
    )
