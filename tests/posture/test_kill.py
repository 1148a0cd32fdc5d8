"""API, daemon and run workers are killed while a workflow with four children executes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import dagster as dg
import httpx
import psutil
import pytest

from secmon_dagster.orchestration import instance as dagster_home
from secmon_dagster.posture import (
    AgentManagementService,
    SecurityMonitoringService,
    Session,
    WorkflowExecution,
)
from secmon_dagster.posture.approvals import list_approvals
from secmon_dagster.posture.executions import start
from secmon_dagster.posture.keys import create_key
from secmon_dagster.settings import get_settings
from tests.posture.workflow_jobs import drive_here

SCRIPTS = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300
T = TypeVar("T")


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

    def kill_a_worker(self) -> bool:
        """The process of a run, told by being a child of the daemon's code server."""
        daemon = psutil.Process(self._running["daemon"].pid)
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            for server in daemon.children(recursive=False):
                for worker in server.children(recursive=True):
                    if any("multiprocessing.spawn" in word for word in worker.cmdline()):
                        worker.kill()
                        return True
        return False

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)


@pytest.fixture
def home_of_dagster(database, tmp_path, monkeypatch) -> dict[str, str]:
    """The environment of processes that share one Dagster instance."""
    monkeypatch.setenv("SECMON_TEST_LINES", str(tmp_path / "lines"))
    monkeypatch.setenv("SECMON_TEST_SECONDS", "0.5")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in dagster_home.prepare().items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


def give_up_early_on_runs_that_never_started() -> None:
    """Dagster gives a run whose process died before its first word up after 180 s."""
    file = Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml"
    text = file.read_text().replace(
        "poll_interval_seconds: 30", "poll_interval_seconds: 5\n  start_timeout_seconds: 40"
    )
    file.unlink()
    file.write_text(text)


@pytest.fixture
def platform(home_of_dagster, tmp_path, monkeypatch) -> Iterator[Platform]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("SECMON_API_PORT", str(port))
    get_settings.cache_clear()
    give_up_early_on_runs_that_never_started()
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


def four_children(kind: str) -> str:
    """A workflow with four children that run however their parent ended."""
    agents = AgentManagementService()
    parent = agents.create_workflow("p", workflow_type=kind, job_name="work", owner_id="ada")
    for order in range(4):
        child = agents.create_workflow(f"c{order}", job_name="work", owner_id="ada").workflow_id
        agents.add_sub_workflow(parent.workflow_id, child, order, {"status": "any"})
    return parent.workflow_id


def lines_of(lines: Path) -> Counter[str]:
    return Counter(lines.read_text().split()) if lines.exists() else Counter()


def each_ran_once_or_says_why_not(execution: WorkflowExecution, lines: Path) -> None:
    started = lines_of(lines)
    assert len(execution.nodes) == 5
    for node in execution.nodes:
        assert started[node.node_id] <= 1, "a child ran twice"
        if node.status == "success":
            assert started[node.node_id] == 1
        else:
            assert node.reason, "a child that did not succeed says why"


def execute_under_fire(platform: Platform, lines: Path, seed: int, kind: str) -> None:
    chance = random.Random(seed)
    agents, parent = AgentManagementService(), four_children(kind)
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

    each_ran_once_or_says_why_not(execution, lines)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_whoever_drives_a_workflow_may_die_at_any_time(home_of_dagster, tmp_path, kills):
    lines, chance = tmp_path / "lines", random.Random(7)
    environment = home_of_dagster | {"SECMON_TEST_SECONDS": "0.2"}
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.posture.workflow_jobs"])
    survived = 0
    while survived < kills:
        execution = start(Session.open(), four_children("sequential"), {}, driver="caller")
        running = True
        while running:
            driver = processes.Process(
                target=drive_here, args=(execution.execution_id, environment)
            )
            driver.start()
            # The first import takes seconds, which would be no time to be killed in.
            before = sum(lines_of(lines).values())
            while driver.is_alive() and sum(lines_of(lines).values()) == before:
                time.sleep(0.01)
            if survived < kills:
                driver.join(chance.uniform(0, 0.4))
                survived += driver.is_alive()
                driver.kill()
            driver.join()
            running = AgentManagementService().get_execution(execution.execution_id).status == (
                "running"
            )
        each_ran_once_or_says_why_not(
            AgentManagementService().get_execution(execution.execution_id), lines
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_needs_approval_starts_when_a_second_person_approves_over_the_api(platform):
    agents, security = AgentManagementService(), SecurityMonitoringService()
    bot = agents.create_instance("bot", owner_id="ada").instance_id
    security.attach_security_layer_to_instance(bot, "strict")
    workflow = agents.create_workflow("p", job_name="work", owner_id="ada").workflow_id
    execution = agents.execute_workflow_with_sub_workflows(workflow, instance_id=bot)
    _, key = create_key(Session.open(), user_id="bob", role="approver")
    platform.start("daemon")
    platform.start("api")
    (waiting,) = eventually(lambda: list_approvals(Session.open()))
    time.sleep(15)  # three rounds of the queue
    with dg.DagsterInstance.get() as instance:
        held = instance.get_run_by_id(waiting.run_id)
    assert held is not None and held.status is dg.DagsterRunStatus.QUEUED

    def approve() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(
                f"http://127.0.0.1:{platform.port}/api/approvals/runs/{waiting.run_id}/approve",
                json={"reason": "fine"},
                headers={"Authorization": f"Bearer {key}"},
            ).is_success
        return False

    eventually(approve)
    eventually(lambda: agents.get_execution(execution.execution_id).status == "success")


def eventually(look: Callable[[], T]) -> T:
    """What ``look`` gives once it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return seen


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_in_the_middle_of_workflows(platform, tmp_path, record_property):
    chance, agents = random.Random(3), AgentManagementService()
    _, key = create_key(Session.open(), user_id="ada", role="operator")
    platform.start("api")
    platform.start("daemon")
    asked: dict[str, str] = {}  # execution of each workflow
    kills: Counter[str] = Counter()
    next_shot = time.monotonic() + 15

    def open_ones() -> list[str]:
        return [one for one in asked.values() if agents.get_execution(one).status == "running"]

    while kills.total() < 20 or open_ones():
        if kills.total() < 20 and len(open_ones()) < 3:
            parent = four_children(chance.choice(["sequential", "parallel"]))
            asked[parent] = submit(platform, parent, key, lambda: None)
        if kills.total() < 20 and time.monotonic() > next_shot:
            victim = chance.choice(["api", "daemon", "worker", "worker"])
            if victim == "worker":
                kills[victim] += platform.kill_a_worker()
            else:
                platform.kill(victim)
                platform.start(victim)
                kills[victim] += 1
            next_shot = time.monotonic() + (14 if victim == "daemon" else 2)
        time.sleep(0.2)

    assert set(kills) == {"api", "daemon", "worker"}
    for parent, execution_id in asked.items():
        assert submit(platform, parent, key, lambda: None) == execution_id
        each_ran_once_or_says_why_not(agents.get_execution(execution_id), tmp_path / "lines")
    ended = [node.status for one in asked.values() for node in agents.get_execution(one).nodes]
    record_property("kills", dict(kills))
    record_property("nodes", dict(Counter(map(str, ended))))


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_workflow_under_fire_runs_each_child_exactly_once_or_says_why_not(platform, tmp_path):
    execute_under_fire(platform, tmp_path / "lines", seed=1, kind="parallel")


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("seed", range(2, 21))
def test_twenty_workflows_under_fire_do_so_too(platform, tmp_path, seed):
    execute_under_fire(platform, tmp_path / "lines", seed, kind="sequential")
