"""Memory by looking: what a fork of a warm parent shares with it is not its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from secmon_dagster.limits import DEFAULT_LIMITS
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
