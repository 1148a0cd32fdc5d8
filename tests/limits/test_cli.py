"""``secmon limits``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from secmon_dagster.cli.limits import ENDED_AT_A_LIMIT, app
from secmon_dagster.limits import ResourceLimits, probe
from secmon_dagster.limits.proc import stat_of
from secmon_dagster.limits.running import running_boxes
from secmon_dagster.limits.violation import ResourceUsage

BACKENDS = ["sampled", *([probe().backend] if probe().hard_limits else [])]


@pytest.fixture
def secmon():
    def call(*words: str):
        return CliRunner().invoke(app, list(words))

    return call


def test_the_exit_code_is_the_program_s(secmon):
    assert secmon("run", "--", "sh", "-c", "exit 7").exit_code == 7
    assert secmon("run", "--", "sh", "-c", "kill -9 $$").exit_code == 137


def test_a_program_ended_at_a_limit_has_a_code_of_its_own_and_a_report(secmon, tmp_path):
    report = tmp_path / "report.json"
    done = secmon("run", "--time", "200ms", "--report", str(report), "--", "sleep", "30")
    assert done.exit_code == ENDED_AT_A_LIMIT
    written = json.loads(report.read_text())
    assert written["violation"]["type"] == "time_limit_exceeded"
    assert written["limits"] == {"maxExecutionTimeMs": 200.0, "allowNetwork": True}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_goes_with_the_command_that_is_asked_to_stop(tmp_path, backend, number):
    place = tmp_path / "pid"
    words = ["limits", "run", "--backend", backend, "--", "sh", "-c", f"echo $$ >{place}; sleep 60"]
    command = subprocess.Popen([sys.executable, "-m", "secmon_dagster.cli.main", *words])
    until = time.monotonic() + 60
    while not place.exists() or not place.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    command.send_signal(number)
    assert command.wait(60) != 0
    left = stat_of(int(place.read_text()))
    assert left is None or left.state == "Z"


def test_proposals_come_from_the_history_of_successful_attempts(secmon, database):
    from secmon_dagster.orchestration.executor.usage_rows import UsageRow, insert_rows

    def row(attempt: int, outcome: str, peak: int) -> UsageRow:
        usage = ResourceUsage(wall_seconds=10.0, cpu_seconds=2.0, peak_memory_bytes=peak << 20)
        limits = ResourceLimits.of(memory="1GiB")
        return UsageRow(
            *("run", "train", attempt, "my_job", "train", "cgroup1", limits, outcome, None),
            *(usage, None),
        )

    insert_rows([row(1, "success", 100), row(2, "failure", 900)])
    insert_rows([row(1, "success", 100)])
    done = secmon("suggest", "my_job", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["limits"]["maxMemoryMB"] == 160
    assert secmon("suggest", "another_job").exit_code == 1


def test_running_boxes_are_listed_with_their_limits(secmon, hard_backend):
    box = hard_backend.create("3-train", ResourceLimits.of(memory="64MiB", cpu=50, processes=30))
    try:
        [found] = [each for each in running_boxes() if each.name == "3-train"]
        assert found.cpu_limit_percent == 50
        assert found.processes_limit == 30
        assert "3-train" in secmon("top", "--once").stdout
    finally:
        box.destroy()
