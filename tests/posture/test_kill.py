"""API, daemon and run workers are killed while a workflow with four children executes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from secmon_dagster.orchestration import instance as dagster_home
from secmon_dagster.posture import AgentManagementService, Session
from secmon_dagster.posture.keys import create_key
from secmon_dagster.settings import get_settings

SCRIPTS = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300


class Platform:
    """A daemon and an API of the test's own, each in a process group that can be killed."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log = port, log
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = {
            "daemon": [str(SCRIPTS / "dagster-daemon"), "run", "-m", "tests.posture.workflow_jobs"],
            "api": [str(SCRIPTS / "secmon"), "api", "serve"],
        }[name]
        with self._log.open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_a_worker(self) -> None:
        """The process of a run, told by being a child of the daemon's code server."""
        daemon = psutil.Process(self._running["daemon"].pid)
        for server in daemon.children(recursive=False):
            for worker in server.children(recursive=True):
                if any("multiprocessing.spawn" in word for word in worker.cmdline()):
                    worker.kill()
                    return

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)


@pytest.fixture
def platform(database, tmp_path, monkeypatch) -> Iterator[Platform]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("SECMON_API_PORT", str(port))
    monkeypatch.setenv("SECMON_TEST_LINES", str(tmp_path / "lines"))
    monkeypatch.setenv("SECMON_TEST_SECONDS", "0.5")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    get_settings.cache_clear()
    for name, value in dagster_home.prepare().items():
        monkeypatch.setenv(name, value)
    running = Platform(port, tmp_path / "log")
    yield running
    running.stop()


def submit(platform: Platform, workflow_id: str, key: str, between) -> str:
    """Ask the API until it answers; every attempt carries the same idempotency key."""
    url = f"http://127.0.0.1:{platform.port}/api/agent/workflows/{workflow_id}/execute-with-subs"
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"kill-{workflow_id}"}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(url, json={"input_data": {}}, headers=headers, timeout=10)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["execution_id"])
        between()
        time.sleep(0.2)
    raise AssertionError("the API never answered")


def execute_under_fire(platform: Platform, lines: Path, seed: int, kind: str) -> None:
    chance = random.Random(seed)
    agents = AgentManagementService(Session.open())
    parent = agents.create_workflow(
        "p", workflow_type=kind, job_name="work", owner_id="ada"
    ).workflow_id
    for order in range(4):
        child = agents.create_workflow(f"c{order}", job_name="work", owner_id="ada").workflow_id
        agents.add_sub_workflow(parent, child, order, {"status": "any"})
    _, key = create_key(Session.open(), user_id="ada", role="operator")
    platform.start("api")
    platform.start("daemon")
    killed_api = False

    def kill_api_once() -> None:
        nonlocal killed_api
        if not killed_api:
            killed_api = True
            platform.kill("api")
            platform.start("api")

    execution_id = submit(platform, parent, key, kill_api_once)
    again = submit(platform, parent, key, kill_api_once)
    assert again == execution_id
    platform.kill("api")

    deadline = time.monotonic() + PATIENCE_SECONDS
    next_shot, shots = time.monotonic() + chance.uniform(6, 16), 0
    while (execution := agents.get_execution(execution_id)).status == "running":
        assert time.monotonic() < deadline, execution
        if time.monotonic() > next_shot and shots < 2:
            shots += 1
            if chance.random() < 0.5:
                platform.kill("daemon")
                platform.start("daemon")
            else:
                platform.kill_a_worker()
            next_shot = time.monotonic() + chance.uniform(8, 16)
        time.sleep(0.2)
    platform.kill("daemon")

    started = Counter(lines.read_text().split()) if lines.exists() else Counter()
    assert len(execution.nodes) == 5
    for node in execution.nodes:
        assert started[node.node_id] <= 1, "a child ran twice"
        if node.status == "success":
            assert started[node.node_id] == 1
        else:
            assert node.reason, "a child that did not succeed says why"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_workflow_under_fire_runs_each_child_exactly_once_or_says_why_not(platform, tmp_path):
    execute_under_fire(platform, tmp_path / "lines", seed=1, kind="parallel")


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("seed", range(2, 21))
def test_twenty_workflows_under_fire_do_so_too(platform, tmp_path, seed):
    execute_under_fire(platform, tmp_path / "lines", seed, kind="sequential")
