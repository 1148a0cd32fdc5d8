"""The version 2 back end against a recorded file tree.

Where the machine lends version 2 controllers, ``test_box.py`` and the executor's violations run
against the kernel. Here the files are plain ones, as a kernel wrote them for each row; ending a
group needs no controller, so that part is the kernel's wherever a version 2 hierarchy is mounted.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid

import pytest

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits import DEFAULT_LIMITS, ResourceLimits, Severity, ViolationType
from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.backends.cgroup2 import Cgroup2Box, delegate
from secmon_dagster.limits.backends.hierarchy import find_hierarchies, writable
from secmon_dagster.limits.evidence import KillReason, cause
from secmon_dagster.limits.watched import CpuWindows

FILES = {
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.oom.group": "0\n",
    "memory.current": "31457280\n",
    "memory.peak": "67108864\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n",
    "memory.events.local": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n",
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 2500000\nnr_periods 31\nnr_throttled 30\nthrottled_usec 1500000\n",
    "pids.max": "max\n",
    "pids.current": "4\n",
    "pids.events": "max 2\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2\n8:0 rbytes=1 wbytes=2\n",
    "cgroup.procs": "",
    "cgroup.kill": "",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_limits_are_written_as_the_kernel_wants_them(folder):
    limits = ResourceLimits.of(memory="64MiB", cpu=50, processes=30).merge(DEFAULT_LIMITS)
    Cgroup2Box(folder, limits)
    written = {name: (folder / name).read_text().strip() for name in FILES}
    assert written["memory.max"].startswith("67108864")
    assert written["memory.swap.max"].startswith("0")
    assert written["memory.oom.group"].startswith("1")
    assert written["cpu.max"].startswith("50000 100000")
    assert written["pids.max"].startswith("30")


def test_memory_that_is_only_watched_is_left_without_a_limit(folder):
    limits = ResourceLimits.of(memory="64MiB", enforce_memory=False).merge(DEFAULT_LIMITS)
    Cgroup2Box(folder, limits)
    assert (folder / "memory.max").read_text() == "max\n"


def test_figures_and_evidence_are_read_from_the_recorded_tree(folder):
    box = Cgroup2Box(folder, DEFAULT_LIMITS)
    reading, evidence = box.read(), box.evidence()
    assert reading.memory_bytes == 31_457_280
    assert (reading.cpu_seconds, reading.throttled_seconds) == (2.5, 1.5)
    assert (reading.periods, reading.throttled_periods) == (31, 30)
    assert (reading.read_bytes, reading.written_bytes) == (4097, 8194)
    assert reading.out_of_memory
    assert (evidence.oom_kills, evidence.peak_memory_bytes) == (3, 67_108_864)
    assert evidence.forks_refused == 2


def test_an_empty_group_has_nothing_left_to_end(folder):
    assert Cgroup2Box(folder, DEFAULT_LIMITS).kill()


def test_a_group_without_controllers_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    with pytest.raises(EnforcementUnavailableError, match="memory, pids") as refused:
        delegate(tmp_path)
    assert "systemd-run --user" in refused.value.hint


def test_controllers_are_handed_down_once(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    delegate(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


QUIET = {
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    "pids.events": "max 0\n",
}
# A child's or an orphan's kill counts in the same group, so all rows of memory look like this.
OUT_OF_MEMORY = {
    "memory.events": "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n",
    "memory.events.local": "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n",
}


@pytest.mark.parametrize(
    ("files", "reason", "kind", "severity", "counter"),
    [
        (OUT_OF_MEMORY, None, ViolationType.MEMORY_LIMIT_EXCEEDED, Severity.HIGH, "oom_kill"),
        (OUT_OF_MEMORY, KillReason.TIME, ViolationType.MEMORY_LIMIT_EXCEEDED, Severity.HIGH, ""),
        ({}, KillReason.TIME, ViolationType.TIME_LIMIT_EXCEEDED, Severity.HIGH, "nr_throttled"),
        ({}, KillReason.CPU, ViolationType.CPU_LIMIT_EXCEEDED, Severity.HIGH, "nr_throttled"),
        (
            {"pids.events": "max 7\n"},
            KillReason.PROCESSES,
            ViolationType.UNAUTHORIZED_ACCESS,
            Severity.CRITICAL,
            "forks_refused",
        ),
        ({}, KillReason.NETWORK, ViolationType.UNAUTHORIZED_ACCESS, Severity.CRITICAL, ""),
    ],
    ids=["memory", "memory before time", "time", "cpu", "processes", "network"],
)
def test_what_the_kernel_wrote_becomes_the_violation(
    folder, files, reason, kind, severity, counter
):
    for name, text in {**QUIET, **files}.items():
        (folder / name).write_text(text)
    box = Cgroup2Box(folder, DEFAULT_LIMITS)
    found = cause(DEFAULT_LIMITS, box.evidence(), reason, enforcement="cgroup2")
    assert (found.type, found.severity, found.enforcement) == (kind, severity, "cgroup2")
    assert not counter or found.evidence[counter] > 0


def test_a_quiet_group_and_no_reason_of_ours_is_no_violation(folder):
    for name, text in QUIET.items():
        (folder / name).write_text(text)
    box = Cgroup2Box(folder, DEFAULT_LIMITS)
    assert cause(DEFAULT_LIMITS, box.evidence(), None, enforcement="cgroup2") is None


def test_sustained_throttling_is_seen_in_glances_at_the_group(folder):
    box, windows = Cgroup2Box(folder, DEFAULT_LIMITS), CpuWindows(80)
    told = []
    for number in range(5):
        (folder / "cpu.stat").write_text(
            f"usage_usec {800_000 * number}\nnr_periods {10 * number}\n"
            f"nr_throttled {10 * number}\nthrottled_usec {200_000 * number}\n"
        )
        told.append(windows.sustained(float(number), box.glance()))
    assert told[:3] == [None, None, None]
    assert told[3] == pytest.approx(80)


ESCAPES = """
import os, signal, sys, time
sys.stdin.readline()
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(120)
        os._exit(0)
time.sleep(120)
"""


def test_the_kernel_ends_all_of_a_group_whoever_forked_twice():
    base = find_hierarchies().version2
    if base is None or not writable(base):
        pytest.skip("no version 2 hierarchy is ours to write")
    group = base / f"secmon-test-{uuid.uuid4().hex[:8]}"
    groups.make(group)
    try:
        program = [sys.executable, "-I", "-S", "-c", ESCAPES]
        process = subprocess.Popen(program, stdin=subprocess.PIPE)
        groups.write(group / "cgroup.procs", str(process.pid))
        process.stdin.close()
        until = time.monotonic() + 30
        while len(groups.processes(group)) < 21 and time.monotonic() < until:
            time.sleep(0.01)
        while not groups.end(group) and time.monotonic() < until:
            time.sleep(0.005)
        assert groups.processes(group) == []
        assert process.wait(timeout=10) == -9
    finally:
        assert groups.empty_and_remove(group)
