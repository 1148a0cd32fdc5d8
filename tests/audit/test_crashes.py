"""Kill -9, of clients in mid-append and of the server in mid-commit, under eight writers.

What must hold: nothing acknowledged is lost, no gap, no fork, no double. The control switches
durability off and must lose something, else these tests would prove nothing. SIGKILL leaves the
operating system's page cache alone: this says nothing about loss of power.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from secmon_dagster import database
from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.audit.verification import Verdict
from secmon_dagster.database import Role, connect, embedded
from secmon_dagster.settings import get_settings

# Four threads; each writes the id of an entry only after the append was acknowledged.
WRITER = """
import os, sys, threading
from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.errors import SecmonError
acknowledged, durability = sys.argv[1:]
log = HashChainAuditLogger(synchronous_commit=durability)
out = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def write(thread):
    number = 0
    while True:
        try:
            entry = log.append_entry("A", f"{os.getpid()}-{thread}", "t", str(number))
        except SecmonError:
            return
        os.write(out, (entry + "\\n").encode())
        number += 1
threads = [threading.Thread(target=write, args=(t,)) for t in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"""

rounds = pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="once"), pytest.param(50, id="fifty", marks=pytest.mark.slow)]
)


@pytest.fixture
def own_server(monkeypatch) -> Iterator[Path]:
    """A server that may be killed; not in pytest's tree, which another pytest of root closes."""
    with tempfile.TemporaryDirectory(prefix="secmon", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("SECMON_HOME", f"{folder}/own")
        monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
        get_settings.cache_clear()
        embedded.start()
        database.migrate()
        yield Path(folder)
        embedded.stop()


def writers(folder: Path, durability: str = "on") -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WRITER, str(folder / "acknowledged"), durability]
    return [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]


def acknowledged(folder: Path) -> set[str]:
    path = folder / "acknowledged"
    return set(path.read_text().splitlines()) if path.exists() else set()


def wait_for_appends(folder: Path, more_than: int) -> None:
    deadline = time.monotonic() + 60
    while len(acknowledged(folder)) <= more_than + 50:
        assert time.monotonic() < deadline, "the writers don't get anywhere"
        time.sleep(0.02)


def kill_server() -> None:
    postmaster = psutil.Process(embedded.running_pid())
    postmaster.suspend()  # so that it does not replace the children that die first
    for process in [*postmaster.children(recursive=True), postmaster]:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([postmaster], timeout=10)


def wait_for_orphans() -> None:
    """A server process goes on with its statement, and commits it, after its client was killed."""
    busy = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND state <> 'idle' AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 60
    with connect(Role.ADMIN, autocommit=True) as connection:
        while connection.execute(busy).fetchone() != (0,):
            assert time.monotonic() < deadline, "the killed writers' statements don't end"
            time.sleep(0.01)


def lost(folder: Path) -> set[str]:
    """Acknowledged entries that are not in the chain; the chain itself must hold."""
    wait_for_orphans()
    with HashChainAuditLogger() as log:
        result = log.verification(workers=1)
    assert result.verdict is Verdict.VALID, result
    assert result.verified_entries == result.total_entries
    with connect(Role.SERVICE) as connection:
        rows = connection.execute("SELECT entry_id FROM audit_entries").fetchall()
    stored = [entry for (entry,) in rows]
    assert len(stored) == len(set(stored)) == result.total_entries
    return acknowledged(folder) - set(stored)


@rounds
@pytest.mark.timeout(1800)
def test_killing_clients_in_mid_append_loses_and_breaks_nothing(own_server, rounds):
    for _ in range(rounds):
        before = len(acknowledged(own_server))
        running = writers(own_server)
        wait_for_appends(own_server, before)
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert lost(own_server) == set()


@rounds
@pytest.mark.timeout(1800)
def test_killing_the_server_in_mid_commit_loses_and_breaks_nothing(own_server, rounds):
    for _ in range(rounds):
        before = len(acknowledged(own_server))
        running = writers(own_server)
        wait_for_appends(own_server, before)
        kill_server()
        for process in running:
            process.wait(60)
        embedded.start()
        assert lost(own_server) == set()


@pytest.mark.timeout(1800)
def test_control_without_synchronous_commit_a_killed_server_does_lose(own_server):
    missing: set[str] = set()
    for _ in range(10):
        before = len(acknowledged(own_server))
        running = writers(own_server, "off")
        wait_for_appends(own_server, before)
        kill_server()
        for process in running:
            process.wait(60)
        embedded.start()
        missing |= lost(own_server)  # still no gap and no fork
        if missing:
            break
    assert missing
