"""The command line as a person types it: a process, its output and its exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from secmon_dagster.cli import doctor
from secmon_dagster.settings import PROJECT_ROOT

SECMON = str(Path(sys.executable).parent / "secmon")


def secmon(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SECMON, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_lists_every_subject_in_under_one_screen():
    done = secmon("--help")
    assert done.returncode == 0
    for subject in ("db", "model", "audit", "limits", "gate", "drift", "doctor", "up", "demo"):
        assert f"\n  {subject} " in done.stdout


def test_an_unknown_subject_is_told():
    done = secmon("polish")
    assert done.returncode == 2 and "No such command 'polish'" in done.stderr


def test_settings_shows_values_sources_and_no_secret(tmp_path):
    (tmp_path / ".env").write_text("MONITORING_TIMEOUT=7\n")
    done = subprocess.run(
        [SECMON, "settings"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "BASETEN_API_KEY": "hunter2", "SECMON_API_PORT": "8123"},
    )
    lines = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()[1:]}
    assert lines["MONITORING_TIMEOUT"] == ["7.0", ".env"]
    assert lines["SECMON_API_PORT"] == ["8123", "environment"]
    assert lines["BASETEN_API_KEY"] == ["********", "environment"]
    assert lines["DRIFT_SCHEDULER_TIMEZONE"] == ["UTC", "default"]
    assert "hunter2" not in done.stdout


def test_a_wrong_setting_is_one_sentence_and_exit_code_two():
    done = secmon("settings", MONITORING_TIMEOUT="soon")
    assert done.returncode == 2
    assert done.stderr.startswith("error: MONITORING_TIMEOUT is 'soon'")
    assert "Traceback" not in done.stderr


def test_a_database_that_does_not_answer_is_exit_code_three_without_its_password():
    done = secmon("db", "status", SECMON_DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/x")
    assert done.returncode == 3
    assert "does not answer" in done.stderr and "hunter2" not in done.stderr


def test_db_start_status_url_stop(home, monkeypatch):
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    try:
        assert "running, pid" in secmon("db", "start").stdout
        assert "pending migrations: none" in secmon("db", "status").stdout
        assert secmon("db", "url").stdout.startswith("postgresql://postgres@/secmon?host=")
    finally:
        assert secmon("db", "stop").stdout == "stopped\n"
    assert secmon("db", "stop").stdout == "was not running\n"


def test_db_start_leaves_a_server_of_ones_own_alone(database):
    done = secmon("db", "start")
    assert done.returncode == 2 and "a server of your own" in done.stderr


def test_env_makes_dagsters_own_commands_work(database):
    lines = secmon("env").stdout
    assert "export DAGSTER_HOME=" in lines
    done = subprocess.run(
        ["bash", "-c", f'eval "$({SECMON} env)" && {Path(SECMON).parent}/dagster run list'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_doctor_names_what_this_machine_can_do(database):
    done = secmon("doctor")
    assert done.returncode == 0, done.stdout
    for subject in ("Python", "PostgreSQL (your own)", "Limits", "Script sandbox", "node", "Disk"):
        assert subject in done.stdout


def test_doctor_names_a_home_that_is_not_this_users_to_write(database, home, monkeypatch):
    # Root may write anywhere, so the answer of the system is made up.
    monkeypatch.setattr("secmon_dagster.cli.doctor.os.access", lambda path, mode: False)
    done = CliRunner().invoke(doctor.app, env={"COLUMNS": "400"})
    assert done.exit_code == 1
    assert f"{home.parent} is not this user's to write" in done.stdout


def test_model_check_says_what_is_wrong_by_line(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text("type: secmon_dagster.MonitoredModel\nattributes:\n  model_id: X\n")
    done = secmon("model", "check", str(file))
    assert done.returncode == 2
    assert f"{file}:3: model_id: is 'X'" in done.stderr


def test_model_check_fills_in_the_environment_as_the_code_location_does(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text(
        "type: secmon_dagster.MonitoredModel\nattributes:\n  model_id: x\n"
        "  data: {path: '{{ env.ROWS }}'}\n  estimator: {name: sklearn.svm.SVC}\n"
    )
    rows = tmp_path / "rows.csv"
    rows.write_text("a,target\n" + "".join(f"{n},{n % 2}\n" for n in range(40)))
    assert "model x is fine, 40 rows" in secmon("model", "check", str(file), ROWS=str(rows)).stdout
    unset = secmon("model", "check", str(file))
    assert unset.returncode == 2 and "environment variable ROWS isn't set" in unset.stderr


@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_mistake_in_a_models_yaml_is_told_before_anything_starts(home, tmp_path, command):
    for part in ("secmon_dagster", "sql"):
        shutil.copytree(PROJECT_ROOT / part, tmp_path / part)
    file = tmp_path / "secmon_dagster" / "defs" / "models" / "wine" / "defs.yaml"
    file.write_text(file.read_text().replace("estimator:", "estimater:"))
    done = secmon(command, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and f"{file}:8: estimater: no such key" in done.stderr
    assert not home.exists()


def test_model_check_reads_the_data_too(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text(
        "type: secmon_dagster.MonitoredModel\nattributes:\n  model_id: x\n"
        "  data: {sklearn: iris}\n  target: species\n"
        "  estimator: {name: sklearn.svm.SVC}\n"
    )
    done = secmon("model", "check", str(file))
    assert done.returncode == 2 and "has no column species" in done.stderr


@pytest.mark.timeout(900)
def test_the_demo_goes_as_it_should_and_leaves_no_process(home, monkeypatch):
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    done = secmon("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        "breast_cancer: accuracy 0.98",
        "wine: accuracy 0.9",
        "posix.system is standard library",
        "memory_limit_exceeded",
        "breast_cancer: CRITICAL",
        "asks for an alert run",
        "entries good, 0 breaks",
        "was changed; verification names",
    ):
        assert expected in done.stdout
    deadline = time.monotonic() + 5
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(home) == []


def processes_of(home: Path) -> list[str]:
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home) in line]
