"""What the gate costs where artifacts are asked for: decisions with their history, and downloads.

Needs the embedded PostgreSQL; everything lives in a temporary home.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from secmon_dagster import database
from secmon_dagster.api.app import create_app
from secmon_dagster.database import embedded
from secmon_dagster.gate import Gatekeeper
from secmon_dagster.posture.keys import create_key
from secmon_dagster.posture.session import Session
from secmon_dagster.settings import get_settings

CLIENTS = 200
LARGE = 512 << 20
ROUNDS = 7
Show = Callable[[str, Callable[[], object], str], None]


@contextmanager
def platform(home: Path) -> Iterator[None]:
    """An empty platform of the benchmark's own."""
    home.parent.chmod(0o755)  # PostgreSQL runs as another user
    os.environ["SECMON_HOME"] = str(home)
    get_settings.cache_clear()
    with embedded.hold() as url:
        os.environ["SECMON_DATABASE_URL"] = url
        get_settings.cache_clear()
        database.migrate()
        try:
            yield
        finally:
            database.close_pools()


def decisions(model: Path, show: Show) -> None:
    """A decision by each way there is."""
    keeper = Gatekeeper()
    made = keeper.register(model, "m", "model", "ann", monitoring_script="content_check.py")
    default = keeper.register(model, "m", "model", "ann")
    show("content check, row and entry written",
         lambda: keeper.check(made.id, fresh=True), "goal: 10 ms")  # fmt: skip
    show("the three default checks, row and entry written",
         lambda: keeper.check(default.id, fresh=True), "")  # fmt: skip
    show("cached decision, row and entry written", lambda: keeper.check(made.id), "goal: 1 ms")
    show("released for a load (hash, chain)", lambda: keeper.open_released(made.id).close(), "")


def application() -> FastAPI:
    """The API, and beside it the same file by the same server without a gate."""
    made = create_app()
    path = os.environ["BENCHMARK_FILE"]
    made.add_api_route("/ungated", lambda: FileResponse(path), include_in_schema=False)
    return made


@contextmanager
def served(file: Path) -> Iterator[tuple[int, int]]:
    """Port and process id of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "BENCHMARK_FILE": str(file), "SECMON_API_REQUESTS_PER_MINUTE": "10000",
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "--factory", f"{__name__}:application"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "critical", "--no-access-log"],
        env=environment,
    ) as server:
        try:
            while True:
                try:
                    fetch(port, "/healthz")
                    break
                except OSError:
                    if server.poll() is not None:
                        raise RuntimeError("the server did not start") from None
                    time.sleep(0.2)
            yield port, server.pid
        finally:
            server.terminate()


def fetch(port: int, path: str, **headers: str) -> tuple[float, float, int]:
    """Seconds to the first byte of the body and from it to the last; the number of bytes."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    buffer = bytearray(1 << 20)
    begin = time.perf_counter()
    client.request("GET", path, headers=headers)
    answer = client.getresponse()
    size = answer.readinto(buffer)
    first = time.perf_counter()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    while more := answer.readinto(buffer):
        size += more
    end = time.perf_counter()
    client.close()
    return first - begin, end - first, size


def memory(process: int) -> float:
    """Resident megabytes."""
    (line,) = [
        found
        for found in Path(f"/proc/{process}/status").read_text().splitlines()
        if found.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024


def downloads(folder: Path, model: Path) -> None:
    """Throughput beside the ungated file, and many at once."""
    large = folder / "large.npy"
    head = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    head %= LARGE
    with large.open("wb") as file:
        file.write(head.ljust(127) + b"\n")
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))
    keeper = Gatekeeper()
    identity = {"large": keeper.register(large, "large", "data", "ann").id,
                "model": keeper.register(model, "m", "model", "ann").id}  # fmt: skip
    _, key = create_key(Session.open(), user_id="bob", role="viewer")
    authorization = {"Authorization": f"Bearer {key}"}
    with served(large) as (port, process):
        gated: list[float] = []
        plain: list[float] = []
        for _ in range(ROUNDS):
            for path, times in ((f"/packages/{identity['large']}", gated), ("/ungated", plain)):
                _, seconds, size = fetch(port, path, **authorization)
                times.append(seconds)
                assert size == large.stat().st_size
        ours, theirs = statistics.median(gated), statistics.median(plain)
        print(f"download of {LARGE >> 20} MiB after its first byte: {LARGE / ours / 1e9:.2f} GB/s, "
              f"ungated {LARGE / theirs / 1e9:.2f} GB/s, ratio {theirs / ours:.2f}  goal: 0.8",
              flush=True)  # fmt: skip
        for round_ in range(3):
            at_once(port, f"/packages/{identity['model']}", authorization, process, round_)


def at_once(port: int, path: str, authorization: dict[str, str], process: int, round_: int) -> None:
    """Clients that all ask at the same moment."""
    fetch(port, path, **authorization)
    before, times = memory(process), list[float]()
    start = threading.Barrier(CLIENTS)

    def one() -> None:
        start.wait()
        first, rest, _ = fetch(port, path, **authorization)
        times.append((first + rest) * 1000)

    threads = [threading.Thread(target=one) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == CLIENTS
    times.sort()
    middle, late = statistics.median(times), times[int(0.99 * CLIENTS) - 1]
    print(f"{CLIENTS} downloads at once, round {round_ + 1}: p50 {middle:.0f} ms, "
          f"p99 {late:.0f} ms = {late / middle:.1f} x  goal: 10 x; server {before:.0f} MB before, "
          f"{memory(process):.0f} MB after", flush=True)  # fmt: skip
