"""Memory by looking: what a fork of a warm parent shares with it is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from secmon_dagster.limits import DEFAULT_LIMITS, entry
from secmon_dagster.limits.backends.sampled import SampledBox
from secmon_dagster.limits.proc import stat_of

MB = 1024 * 1024

WARM_PARENT = """
import os, sys, time
def touched(mb): return bytearray(b'x') * (mb << 20)
inherited = touched(200)
if os.fork() == 0:
    own = touched(30)
    if sys.argv[1] == 'forks' and os.fork() == 0:
        time.sleep(60)
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture(params=["alone", "forks"])
def fork_of_a_warm_parent(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    parent = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WARM_PARENT, request.param],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = int(parent.stdout.readline())
    yield child, parent.pid
    box = SampledBox(DEFAULT_LIMITS)
    box.adopt(parent.pid)
    while not box.kill():
        continue
    parent.wait()


def test_what_a_fork_inherits_from_its_warm_parent_is_not_counted(fork_of_a_warm_parent):
    child, parent = fork_of_a_warm_parent
    box = SampledBox(DEFAULT_LIMITS)
    box.adopt(child, warm_parent=parent)
    assert 25 * MB < box.read().memory_bytes < 50 * MB
    assert stat_of(child).rss_bytes > 200 * MB


def test_what_processes_of_one_box_share_is_counted_once(fork_of_a_warm_parent):
    _, parent = fork_of_a_warm_parent
    box = SampledBox(DEFAULT_LIMITS)
    box.adopt(parent)
    assert 225 * MB < box.read().memory_bytes < 260 * MB


PR_SET_DUMPABLE = 4


def _watches_a_process_that_hides() -> bool:
    """Whether a plain user, who may not look into the process, still sees it over its limit."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    hides = os.fork()
    if hides == 0:
        entry.prctl(PR_SET_DUMPABLE, 0)
        kept = bytearray(b"x") * (100 * MB)
        time.sleep(60)
        del kept
    box = SampledBox(replace(DEFAULT_LIMITS, max_memory_mb=64))
    box.adopt(hides)
    until = time.monotonic() + 15
    while not (over := box.read().out_of_memory) and time.monotonic() < until:
        time.sleep(0.05)
    box.kill()
    return over


def test_a_process_that_keeps_others_from_looking_into_it_is_held_to_its_memory():
    watcher = os.fork()
    if watcher == 0:
        seen = False
        try:
            seen = _watches_a_process_that_hides()
        finally:
            os._exit(0 if seen else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1]) == 0
