"""What boxes hold and cost, without Dagster: memory, time, a thousand of them, a busy one."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.executor.report import report
from secmon_dagster.limits import ResourceLimits, run_boxed
from secmon_dagster.limits.backends import Backend, Box, Reading
from secmon_dagster.limits.capabilities import open_backend
from secmon_dagster.limits.evidence import Evidence
from secmon_dagster.limits.forks import serve
from secmon_dagster.limits.supervisor import Supervisor
from secmon_dagster.limits.watched import Ended, Started
from secmon_dagster.limits.zygote import Zygote

MB = 1 << 20
BOXES = 1000
WATCHED_SECONDS = 30.0
PAIRS = 30

TOUCHES_MEMORY = "kept = []\nwhile True: kept.append(b'x' * (1 << 20))"
COUNTS = """
import os, time
began = time.process_time()
total = 0
for number in range(6_000_000):
    total += number * number % 7
with open({path!r}, "w") as out:
    out.write(str(time.process_time() - began))
"""


def memory() -> None:
    """How far beyond 512 MB the fastest allocator gets."""
    for name in ("auto", "sampled"):
        with opened(name) as backend:
            over = []
            for _ in range(5):
                done = run_boxed(
                    [sys.executable, "-I", "-S", "-c", TOUCHES_MEMORY],
                    ResourceLimits.of(memory="512MiB", cpu=100, time=60),
                    backend=backend,
                )
                over.append((done.usage.peak_memory_bytes - 512 * MB) / MB)
            hard = backend.name != "sampled"
            report(
                f"memory: over 512 MB ({backend.name})",
                ", ".join(f"{each:.0f}" for each in over) + " MB",
                "0 MB" if hard else "",
                max(over) <= 0 if hard else None,
            )


def deadline() -> None:
    """How late a time limit fires."""
    for name in ("auto", "sampled"):
        with opened(name) as backend, supervised(backend) as supervisor:
            for number in range(20):
                limits = ResourceLimits.of(time=0.2 + number / 50)
                supervisor.start(f"late-{number}", b"import time; time.sleep(60)", limits)
            ended = collect(supervisor, Ended, 20)
            late = [1000 * (each.violation.observed - each.violation.limit) for each in ended]
            report(
                f"time: a limit fires late by, 20 at once ({backend.name})",
                f"median {statistics.median(late):.1f} ms, most {max(late):.1f} ms",
                "<= 50 ms",
                max(late) <= 50,
            )


def thousand() -> None:
    """CPU of watching a thousand processes every five seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with opened("auto") as backend, supervised(backend) as supervisor:
        for number in range(BOXES):
            supervisor.start(f"box-{number}", b"import time; time.sleep(600)", ResourceLimits())
        collect(supervisor, Started, BOXES)
        began, cpu = time.monotonic(), time.process_time()
        while time.monotonic() < began + WATCHED_SECONDS:
            supervisor.run_once(began + WATCHED_SECONDS - time.monotonic())
        used = 100 * (time.process_time() - cpu) / (time.monotonic() - began)
        report(
            f"watching {BOXES} boxes every 5 s ({backend.name})",
            f"{used:.2f} % of a core",
            "< 0.5 %",
            used < 0.5,
        )


def overhead() -> None:
    """CPU time of the same work in a box and beside one, in pairs, each the other's neighbour.

    Forks of one zygote: where its memory happens to lie makes a loop some percent faster or slower.
    """
    for name in ("auto", "sampled"):
        with opened(name) as backend:
            ratios = []
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "seconds")
                code = COUNTS.format(path=path).encode()
                with supervised(Either(backend)) as supervisor:
                    for pair in range(PAIRS):
                        seconds = {}
                        for side in ("boxed", "free") if pair % 2 else ("free", "boxed"):
                            supervisor.start(side, code, ResourceLimits.of(cpu=100))
                            collect(supervisor, Ended, 1)
                            seconds[side] = float(Path(path).read_text())
                        ratios.append(seconds["boxed"] / seconds["free"])
            quarter = statistics.quantiles(ratios, n=4)
            percent = 100 * (statistics.median(ratios) - 1)
            report(
                f"a CPU-bound process in a box, {PAIRS} pairs ({backend.name})",
                f"{percent:+.2f} % (quartiles {100 * (quarter[0] - 1):+.2f},"
                f" {100 * (quarter[2] - 1):+.2f})",
                "< 1 %",
                percent < 1,
            )


@contextmanager
def opened(name: Any) -> Iterator[Backend]:
    backend = open_backend(name)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def supervised(backend: Backend) -> Iterator[Supervisor]:
    supervisor = Supervisor(backend, start_zygote)
    try:
        yield supervisor
    finally:
        supervisor.close()


def collect(supervisor: Supervisor, kind: type, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += [each for each in supervisor.run_once(1.0) if isinstance(each, kind)]
    return found


def start_zygote() -> Zygote:
    """One without Dagster: its forks execute the code they are sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    process.returncode = 0
    return Zygote(ours, process.pid)


class NoBox:
    """A process beside any box."""

    def plan(self) -> dict[str, Any]:
        return {}

    def adopt(self, pid: int, warm_parent: int | None = None) -> None:
        self._pid = pid

    def alarms(self) -> list[int]:
        return []

    def read(self) -> Reading:
        return Reading()

    def glance(self) -> Reading:
        return Reading()

    def kill(self) -> bool:
        return not Path(f"/proc/{self._pid}").exists()

    def evidence(self) -> Evidence:
        return Evidence()

    def destroy(self) -> None:
        """Nothing was made."""


class Either:
    """Boxes, and for what is called ``free`` none."""

    def __init__(self, boxes: Backend) -> None:
        self._boxes = boxes
        self.name, self.look_every = boxes.name, boxes.look_every

    def create(self, name: str, limits: ResourceLimits) -> Box:
        return NoBox() if name.endswith("free") else self._boxes.create(name, limits)

    def folders(self) -> list[Path]:
        return self._boxes.folders()

    def close(self) -> None:
        """Whoever made the boxes closes them."""


def execute(document: bytes, channel: socket.socket) -> int:
    exec(document, {})
    return 0


if __name__ == "__main__":
    os.environ.clear()
    serve(socket.socket(fileno=int(sys.argv[1])), execute)
