"""The version 2 back end against a recorded file tree.

Where the machine lends version 2 controllers, ``test_box.py`` runs against the kernel; here, the
files it writes and reads are plain ones.
"""

from __future__ import annotations

import pytest

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits import DEFAULT_LIMITS, ResourceLimits
from secmon_dagster.limits.backends.cgroup2 import Cgroup2Box, delegate

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
