from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from secmon_dagster.database import embedded, keeper
from secmon_dagster.errors import DatabaseUnavailableError
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


def secmon(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "secmon"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


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


@pytest.fixture
def stale(own: Path):
    """A data folder whose server died, its process id now somebody else's."""
    with embedded.hold():
        lines = keeper.postmaster(embedded.data_directory())
    assert lines is not None
    with subprocess.Popen(["sleep", "600"]) as somebody:
        file = embedded.data_directory() / "postmaster.pid"
        file.write_text("\n".join([str(somebody.pid), *lines[1:], ""]))
        shutil.chown(file, *(s for s in [file.parent.stat()] for s in (s.st_uid, s.st_gid)))
        yield somebody
        somebody.kill()


def test_a_process_that_has_the_id_of_a_server_that_died_is_left_alone(stale):
    assert embedded.running_pid() is None
    assert embedded.stop() is False
    assert stale.poll() is None


def test_the_server_starts_where_its_old_process_id_is_somebody_elses(stale):
    with embedded.hold() as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert stale.poll() is None


@pytest.mark.parametrize("name", ["my home", "mine, 'yours' & theirs", 60 * "long"])
def test_any_folder_will_do(tmp_path, monkeypatch, name):
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    monkeypatch.setenv("SECMON_HOME", str(tmp_path / name))
    get_settings.cache_clear()
    with embedded.hold() as url:
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        sockets = Path(keeper.postmaster(embedded.data_directory())[4])
    assert embedded.running_pid() is None
    assert sockets == embedded.data_directory() or not sockets.exists()


def test_an_initialisation_that_was_killed_is_begun_anew(own, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), embedded.hold():
            pass
    assert [path.name[:12] for path in own.glob("postgres.n*")] == ["postgres.new"]
    assert not embedded.data_directory().exists()
    with embedded.hold(), psycopg.connect(embedded.running_url()) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)
    assert list(own.glob("postgres.new-*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")
def test_what_root_keeps_private_is_opened_to_pass_not_to_list(tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    monkeypatch.setenv("SECMON_HOME", str(private / "home"))
    get_settings.cache_clear()
    with embedded.hold():
        assert stat.S_IMODE(private.stat().st_mode) == 0o701


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_server_says_whose_it_is(own):
    with embedded.hold():
        pass
    os.chown(embedded.data_directory(), 1, 1)
    with pytest.raises(DatabaseUnavailableError, match=r"belongs to user \w+, who alone"):
        embedded.start()


def test_a_home_that_cannot_be_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").touch()
    for words in (["db", "start"], ["up"], ["env"], ["doctor"]):
        done = secmon(*words, SECMON_HOME=str(tmp_path / "file"), SECMON_DATABASE_URL="")
        assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
        assert f"{tmp_path}/file" in done.stderr + done.stdout
        assert "Not a directory" in done.stderr
