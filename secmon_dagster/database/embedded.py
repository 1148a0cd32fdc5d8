"""The embedded PostgreSQL: a server of one's own under the home folder, on a Unix socket only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg
from psycopg import sql

from secmon_dagster.database import keeper, server
from secmon_dagster.errors import DatabaseUnavailableError
from secmon_dagster.settings import get_settings

DATABASE_NAME = "secmon"


def data_directory() -> Path:
    """Where the server keeps its files."""
    return get_settings().home.resolve() / "postgres"


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
    data = data_directory()
    if keeper.postmaster(data) is None:
        if not (data / "PG_VERSION").exists():
            server.initialise(data)
        server.launch(data)
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
