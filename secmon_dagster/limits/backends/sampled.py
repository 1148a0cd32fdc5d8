"""Looking at ``/proc`` twenty times a second, where the kernel lends us no groups.

It can't be hard: a process may pass its memory limit by what it allocates between two looks (34 MB
on a fast allocator, measured), CPU is watched and not held back, and files in memory (tmpfs) count
only while they are mapped. Steps ended here say ``enforcement: sampled``.

Resident memory lies after a fork, since pages shared with the warm parent count in full. So it
serves as a cheap upper bound, and what the processes use beyond that parent, which costs a walk
through their page tables, is read four times a second and whenever that bound is near the limit.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from secmon_dagster.limits.backends.base import Reading
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import MB, Evidence
from secmon_dagster.limits.proc import (
    ProcessStat,
    descendants_of,
    io_bytes,
    private_and_shared_bytes,
    stat_of,
    tasks_of_user,
)

LOOK_EVERY = 0.05
_EXACT_EVERY = 0.25
"""Seconds after which memory is read page by page although resident memory did not grow."""

_STOP_ROUNDS = 200
_ROOM_FOR_OTHERS = 1024


class SampledBox:
    """A process and what descends from it."""

    def __init__(self, limits: ResourceLimits) -> None:
        self._limits = limits
        self._root: int | None = None
        self._inherited = 0
        self._seen: dict[int, ProcessStat] = {}
        self._io: dict[int, tuple[int, int]] = {}
        self._peak = 0
        self._out_of_memory = False
        self._crowded = 0
        self._exact_rss = 0
        self._exact = 0
        self._exact_at = 0.0

    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = {"subreaper": True}
        if self._limits.max_processes is not None and os.getuid() != 0:
            # The kernel counts this by user, not by box: what else the user runs, or starts while
            # the box lives, must not use up its room. So it only holds a fork bomb until a look
            # sees it; the limit itself is judged by looking.
            others = tasks_of_user(os.getuid()) + _ROOM_FOR_OTHERS
            plan["processes"] = self._limits.max_processes + others
        return plan

    def adopt(self, pid: int, warm_parent: int | None = None) -> None:
        self._root = pid
        parent = None if warm_parent is None else stat_of(warm_parent)
        self._inherited = 0 if parent is None else parent.rss_bytes

    def alarms(self) -> list[int]:
        return []

    def _living(self) -> dict[int, ProcessStat]:
        if self._root is None:
            return {}
        # Those seen before whose pid still means the same process: they may have lost their parent.
        known = [pid for pid, old in self._seen.items() if _same(pid, old)]
        found: dict[int, ProcessStat] = {}
        for pid in descendants_of([self._root, *known]):
            now = stat_of(pid)
            if now is not None and now.state != "Z":
                found[pid] = now
        return found

    def read(self) -> Reading:
        living = self._living()
        self._seen.update(living)
        for pid in living:
            self._io[pid] = io_bytes(pid) if self._exact_due() else self._io.get(pid, (0, 0))
        memory = self._memory(living)
        self._peak = max(self._peak, memory)
        limits = self._limits
        if limits.enforce_memory_limit and limits.max_memory_mb is not None:
            self._out_of_memory |= memory > limits.max_memory_mb * MB
        tasks = sum(stat.threads for stat in living.values())
        if limits.max_processes is not None and tasks > limits.max_processes:
            self._crowded = max(self._crowded, tasks - limits.max_processes)
        return Reading(
            memory_bytes=memory,
            cpu_seconds=sum(stat.cpu_seconds for stat in self._seen.values()),
            processes=tasks,
            read_bytes=sum(read for read, _ in self._io.values()),
            written_bytes=sum(written for _, written in self._io.values()),
            out_of_memory=self._out_of_memory,
            forks_refused=self._crowded,
        )

    def glance(self) -> Reading:
        return self.read()

    def _exact_due(self) -> bool:
        return time.monotonic() - self._exact_at > _EXACT_EVERY

    def _memory(self, living: dict[int, ProcessStat]) -> int:
        bound = sum(stat.rss_bytes for stat in living.values())
        limit = self._limits.max_memory_mb
        room = bound if limit is None else round(limit * MB)
        if bound <= room and not self._exact_due():
            return min(bound, max(self._exact, bound - self._exact_rss + self._exact))
        grown = bound - self._exact_rss
        if not self._exact_due() and grown < (room - self._exact) / 2:
            return self._exact + max(0, grown)
        sizes = [
            # Who keeps us from looking counts in full.
            (stat.rss_bytes, 0) if (found := private_and_shared_bytes(pid)) is None else found
            for pid, stat in living.items()
        ]
        # At most this share of what the warm parent left them is theirs: the parent maps it too.
        # What they share beyond that is their own, such as an array a step's workers read.
        inherited = self._inherited * len(sizes) // (len(sizes) + 1)
        shared = sum(share for _, share in sizes)
        self._exact = sum(private for private, _ in sizes) + max(0, shared - inherited)
        self._exact_rss = bound
        self._exact_at = time.monotonic()
        return self._exact

    def kill(self) -> bool:
        stopped: set[int] = set()
        for _ in range(_STOP_ROUNDS):
            running = self._living().keys() - stopped
            if not running:
                break
            for pid in running:
                _send(pid, signal.SIGSTOP)
            stopped |= running
        for pid in stopped:
            _send(pid, signal.SIGKILL)
        return not stopped

    def evidence(self) -> Evidence:
        return Evidence(
            oom_seen=self._out_of_memory,
            peak_memory_bytes=self._peak or None,
            forks_refused=self._crowded,
        )

    def destroy(self) -> None:
        self._root = None
        self._seen.clear()


class Sampled:
    """Boxes without a kernel's help."""

    name = "sampled"
    look_every: float | None = LOOK_EVERY

    def create(self, name: str, limits: ResourceLimits) -> SampledBox:
        return SampledBox(limits)

    def folders(self) -> list[Path]:
        return []

    def close(self) -> None:
        """Nothing was created."""


def _same(pid: int, old: ProcessStat) -> bool:
    now = stat_of(pid)
    return now is not None and now.started == old.started and now.state != "Z"


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        # Gone, or a setuid program that isn't ours to end.
        return
