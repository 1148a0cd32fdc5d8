from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from secmon_dagster.database import embedded
from secmon_dagster.settings import get_settings

_HOLD = """
from secmon_dagster.database import embedded
with embedded.hold():
    print('held', flush=True)
    input()
"""


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch):
    """An embedded server of the test's own."""
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    get_settings.cache_clear()
    yield home
    embedded.stop()


def _holder() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def _gone_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if embedded.running_pid() is None:
            return True
        time.sleep(0.05)
    return False


def test_the_server_stops_with_the_last_who_holds_it(own):
    with embedded.hold() as url:
        with embedded.hold():
            pass
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert embedded.running_pid() is None


def test_the_server_stops_when_its_only_holder_is_killed(own):
    holder = _holder()
    holder.kill()
    holder.wait()
    assert _gone_within(15)


def test_the_server_outlives_a_killed_holder_while_another_lives(own):
    with embedded.hold() as url:
        other = _holder()
        other.kill()
        other.wait()
        time.sleep(0.5)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_started_for_good_stays_until_it_is_stopped(own):
    embedded.start()
    with embedded.hold():
        pass
    assert embedded.running_pid() is not None
    assert embedded.stop() is True
    assert embedded.running_pid() is None
    assert embedded.stop() is False


def test_ctrl_c_to_the_starters_group_spares_the_server(own):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD.replace("input()", "import time; time.sleep(60)")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with embedded.hold() as url:
        os.killpg(holder.pid, signal.SIGINT)
        holder.wait()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
