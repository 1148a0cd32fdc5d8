"""A chain with a signer and a witness of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.audit.verification import Verification
from secmon_dagster.settings import get_settings

ENTRY = {"action": "A", "actor": "a", "resource_type": "t"}


@dataclass(frozen=True)
class Chain:
    """A logger, and a superuser's connection to the database behind it."""

    log: HashChainAuditLogger
    admin: psycopg.Connection[Any]
    home: Path

    def fill(self, count: int, **fields: Any) -> list[str]:
        return self.log.append_entries([ENTRY | fields for _ in range(count)])

    def unguard(self) -> None:
        """What a superuser does first."""
        self.admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")

    def verify(self, **options: Any) -> Verification:
        return self.log.verification(workers=1, **options)


@pytest.fixture
def chain(database, home) -> Iterator[Chain]:
    with HashChainAuditLogger() as log, database.admin() as admin:
        yield Chain(log, admin, home)


@pytest.fixture(scope="module")
def shared_chain(
    new_database: Callable[[], AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    """One chain for a file's tests, which must leave it as they found it."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as environment, new_database() as database:
        environment.setenv("SECMON_HOME", str(home))
        environment.setenv("SECMON_DATABASE_URL", database.url)
        get_settings.cache_clear()
        with HashChainAuditLogger() as log, database.admin() as admin:
            yield Chain(log, admin, home)


@pytest.fixture
def log(chain) -> HashChainAuditLogger:
    return chain.log


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """URL of an empty database on a MariaDB of this session's own."""
    path = os.environ["PATH"] + ":/usr/sbin"
    daemon, installer = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db")
    if daemon is None or installer is None:
        pytest.skip("mariadbd is not installed (Debian: mariadb-server)")
    # Not in pytest's own tree: a socket's path may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="secmon") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        common = ["--no-defaults", f"--datadir={folder}/data", f"--user={getpass.getuser()}"]
        subprocess.run(
            [installer, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        listening = [f"--socket={folder}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
        server = subprocess.Popen([daemon, *common, *listening], stderr=subprocess.DEVNULL)
        try:
            _create_database(server, port)
            yield f"mysql://root@127.0.0.1:{port}/audit"
        finally:
            server.terminate()
            server.wait(30)


def _create_database(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, "mariadbd ended"
        try:
            connection = pymysql.connect(host="127.0.0.1", port=port, user="root")
        except pymysql.OperationalError:
            assert time.monotonic() < deadline, "mariadbd does not answer"
            time.sleep(0.05)
            continue
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE audit")
        return
