"""A run that is cancelled, or whose process is killed, leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus

from secmon_dagster.limits import probe
from secmon_dagster.limits.backends.hierarchy import find_hierarchies
from secmon_dagster.limits.proc import stat_of

HERE = Path(__file__).parent
HARD = probe().hard_limits
# Where there is a better one, the sampled back end waits for --slow.
SAMPLED = pytest.param("sampled", marks=[pytest.mark.slow] if HARD else [])
BACKENDS = [*([probe().backend] if HARD else []), SAMPLED]


class Started:
    """A run in a process of its own, with its three steps at work."""

    def __init__(self, folder: Path, backend: str) -> None:
        config = {"audit": "off", "backend": backend, "grace": 0.5, "max_concurrent": 3}
        # Two processes that create an instance's tables at once get in each other's way.
        DagsterInstance.local_temp(str(folder)).dispose()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "survivor.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            text=True,
        )
        self.process.stdin.write(json.dumps(["jobs", "waits", config]))
        self.process.stdin.close()
        self.folder = folder
        self.pids = self._wait_for_pids()

    def _wait_for_pids(self) -> list[int]:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            time.sleep(0.2)
            with DagsterInstance.local_temp(str(self.folder)) as instance:
                for run in instance.get_runs():
                    messages = [entry.user_message for entry in instance.all_logs(run.run_id)]
                    pids = [int(text[4:]) for text in messages if text.startswith("pid ")]
                    if len(pids) == 3:
                        return pids
        raise AssertionError("the steps did not start")

    def status(self) -> DagsterRunStatus:
        with DagsterInstance.local_temp(str(self.folder)) as instance:
            [run] = instance.get_runs()
            return run.status

    def groups(self) -> list[Path]:
        found = find_hierarchies()
        bases = [*found.version1.values(), *([found.version2] if found.version2 else [])]
        mine = f"secmon-{self.process.pid}-*"
        return [entry for base in bases for entry in base.glob(mine)]

    def alive(self) -> list[int]:
        found = [(pid, stat_of(pid)) for pid in self.pids]
        return [pid for pid, stat in found if stat is not None and stat.state != "Z"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_whose_process_is_killed_leaves_nothing_behind(tmp_path, backend):
    started = Started(tmp_path, backend)
    started.process.kill()
    started.process.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until and (started.alive() or started.groups()):
        time.sleep(0.05)
    assert started.alive() == []
    assert started.groups() == []


def test_a_run_killed_while_its_zygote_gets_warm_leaves_nothing_behind(tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(120)\n")
    run = subprocess.Popen(
        [sys.executable, str(HERE / "survivor.py"), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{tmp_path}"},
        text=True,
    )
    config = {"audit": "off", "preload_modules": ["slow_to_import"]}
    run.stdin.write(json.dumps(["jobs", "waits", config]))
    run.stdin.close()
    until = time.monotonic() + 60
    while not (family := psutil.Process(run.pid).children(recursive=True)):
        assert time.monotonic() < until and run.poll() is None
        time.sleep(0.05)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_a_cancelled_run_ends_steps_that_listen_and_steps_that_do_not(tmp_path):
    started = Started(tmp_path, "auto")
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        # What the launcher does first when a run is cancelled from the UI.
        instance.report_run_canceling(instance.get_runs()[0])
    started.process.send_signal(signal.SIGINT)
    started.process.wait(timeout=60)
    assert started.alive() == []
    assert started.groups() == []
    assert started.status() is DagsterRunStatus.CANCELED
