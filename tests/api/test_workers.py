"""``secmon api serve --workers 2``: two processes that are one API."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

PER_MINUTE = 8


@pytest.fixture
def served(database, tmp_path) -> Iterator[SimpleNamespace]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "secmon"), "api", "serve", "--workers", "2"],
            env=os.environ
            | {"SECMON_API_PORT": str(port), "SECMON_API_REQUESTS_PER_MINUTE": str(PER_MINUTE)},
            stdout=file,
            stderr=file,
        )
    url = f"http://127.0.0.1:{port}"
    server = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 60
        while log.read_text().count("Application startup complete") < 2:
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        started = re.findall(r"Started server process \[(\d+)\]", log.read_text())
        yield SimpleNamespace(
            url=url, log=log, process=process, server=server, workers=list(map(int, started))
        )
    finally:
        for one in [*server.children(recursive=True), server] if server.is_running() else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


@contextlib.contextmanager
def standing_still(worker: int) -> Iterator[None]:
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def test_both_workers_answer_and_share_one_rate_limit(served, key):
    headers, answers, half = key("viewer"), [], PER_MINUTE // 2 + 1
    for still in served.workers:
        with standing_still(still):
            answers += [
                httpx.get(f"{served.url}/api/security/layers", headers=headers) for _ in range(half)
            ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * PER_MINUTE + [429] * (2 * half - PER_MINUTE), served.log.read_text()
    asked = {answer.headers["x-request-id"] for answer in answers}
    lines: dict[str, int] = {}
    deadline = time.monotonic() + 30
    while not asked <= lines.keys():  # a worker writes its line after the answer
        assert time.monotonic() < deadline, asked - lines.keys()
        lines = {
            line.split("request_id=")[1]: int(line.split()[2])
            for line in served.log.read_text().splitlines()
            if "request_id=" in line
        }
    answered = [lines[answer.headers["x-request-id"]] for answer in answers]
    assert answered == [served.workers[1]] * half + [served.workers[0]] * half


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_process(served, number):
    family = [served.server, *served.server.children(recursive=True)]
    assert {*served.workers} < {process.pid for process in family}
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    served.process.send_signal(number)
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == [], served.log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/healthz")
