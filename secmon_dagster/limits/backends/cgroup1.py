"""Control groups, version 1: one hierarchy a controller.

Version 1 can't end a group as a whole: the kernel kills one process at the limit, and its parent
may go on to report success. So an eventfd tells us at once, we end the rest, and whoever reports
success is believed only after the kernel's counter of kills was read. (Switching the kernel's
killer off instead stops the group only where it touches memory: a write to a file in memory then
fails with ENOMEM and nobody is told.)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.backends.base import Reading
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import MB, Evidence

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
_PERIOD_US = 100_000
_SUSPICION = 1.0
_LOOK_AGAIN = 0.005


class Cgroup1Box:
    """One group in each of the four hierarchies."""

    def __init__(self, folders: Mapping[str, Path], limits: ResourceLimits) -> None:
        self._folders = dict(folders)
        self._memory, self._cpu = folders["memory"], folders["cpu"]
        self._accounting, self._pids = folders["cpuacct"], folders["pids"]
        self._eventfd: int | None = None
        self._out_of_memory = False
        self._suspected_until = 0.0
        self._kept: list[groups.KeptFile] = []
        self._throttled = 0
        for folder in dict.fromkeys(self._folders.values()):
            groups.make(folder)
        try:
            self._apply(limits)
        except (EnforcementUnavailableError, OSError):
            self.destroy()
            raise

    def _apply(self, limits: ResourceLimits) -> None:
        if limits.enforce_memory_limit and limits.max_memory_mb is not None:
            size = str(round(limits.max_memory_mb * MB))
            groups.write(self._memory / "memory.limit_in_bytes", size)
            # Without this a group over its limit moves on into swap. Kernels without swap
            # accounting don't have the file.
            if (self._memory / "memory.memsw.limit_in_bytes").exists():
                groups.write(self._memory / "memory.memsw.limit_in_bytes", size)
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            control = os.open(self._memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                groups.write(self._memory / "cgroup.event_control", f"{self._eventfd} {control}")
            finally:
                os.close(control)
        if limits.max_cpu_percent is not None:
            groups.write(self._cpu / "cpu.cfs_period_us", str(_PERIOD_US))
            quota = max(1000, round(_PERIOD_US * limits.max_cpu_percent / 100))
            groups.write(self._cpu / "cpu.cfs_quota_us", str(quota))
        if limits.max_processes is not None:
            groups.write(self._pids / "pids.max", str(limits.max_processes))
        files = (self._cpu / "cpu.stat", self._pids / "pids.events")
        self._kept = [groups.KeptFile(path) for path in files]

    def plan(self) -> dict[str, Any]:
        # A process joins before it has threads, so as a thread: to move a whole process the kernel
        # first waits for a quiet moment of all processors, 12 ms.
        folders = dict.fromkeys(self._folders.values())
        return {"join": [str(folder / "tasks") for folder in folders]}

    def adopt(self, pid: int, warm_parent: int | None = None) -> None:
        """The groups know their processes."""

    def alarms(self) -> list[int]:
        # Version 1 doesn't announce refused forks; they are found at the next look.
        return [] if self._eventfd is None else [self._eventfd]

    def read(self) -> Reading:
        look_again = None
        if self._eventfd is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)
                self._suspected_until = time.monotonic() + _SUSPICION
            # The eventfd also fires when the group is removed, so it proves nothing alone; and it
            # fires before the kernel has killed, so the proof may take another look.
            control = groups.table(self._memory / "memory.oom_control")
            self._out_of_memory |= bool(control.get("under_oom") or control.get("oom_kill"))
            if time.monotonic() < self._suspected_until and not self._out_of_memory:
                look_again = _LOOK_AGAIN
        throttling = groups.table(self._cpu / "cpu.stat")
        used = groups.number(self._accounting / "cpuacct.usage")
        return Reading(
            memory_bytes=groups.number(self._memory / "memory.usage_in_bytes"),
            cpu_seconds=None if used is None else used / 1e9,
            periods=throttling.get("nr_periods"),
            throttled_periods=throttling.get("nr_throttled"),
            throttled_seconds=throttling.get("throttled_time", 0) / 1e9,
            processes=groups.number(self._pids / "pids.current"),
            out_of_memory=self._out_of_memory,
            look_again=look_again,
            forks_refused=groups.table(self._pids / "pids.events").get("max", 0),
        )

    def glance(self) -> Reading:
        if not self._kept:
            return Reading()
        throttling, forks = (file.table() for file in self._kept)
        throttled = throttling.get("nr_throttled", 0)
        used = None
        if throttled != self._throttled:
            self._throttled = throttled
            used = groups.number(self._accounting / "cpuacct.usage")
        return Reading(
            cpu_seconds=None if used is None else used / 1e9,
            periods=throttling.get("nr_periods"),
            throttled_periods=throttled,
            forks_refused=forks.get("max", 0),
        )

    def kill(self) -> bool:
        return groups.end(self._pids)

    def evidence(self) -> Evidence:
        control = groups.table(self._memory / "memory.oom_control")
        reading = self.read()
        return Evidence(
            oom_kills=control.get("oom_kill", 0),
            oom_seen=reading.out_of_memory,
            peak_memory_bytes=groups.number(self._memory / "memory.max_usage_in_bytes"),
            forks_refused=reading.forks_refused,
            counters={
                "nr_periods": reading.periods or 0,
                "nr_throttled": reading.throttled_periods or 0,
            },
        )

    def destroy(self) -> None:
        if self._eventfd is not None:
            os.close(self._eventfd)
            self._eventfd = None
        while self._kept:
            self._kept.pop().close()
        for folder in dict.fromkeys(self._folders.values()):
            groups.remove(folder)


class Cgroup1:
    """Groups below ours: ``<where we are>/<run>/<box>`` in each hierarchy."""

    name = "cgroup1"
    look_every = None

    def __init__(self, bases: Mapping[str, Path], run_name: str) -> None:
        """``bases`` maps each of :data:`CONTROLLERS` to the group this process is in."""
        self._run = {controller: bases[controller] / run_name for controller in CONTROLLERS}

    def create(self, name: str, limits: ResourceLimits) -> Cgroup1Box:
        return Cgroup1Box({key: folder / name for key, folder in self._run.items()}, limits)

    def folders(self) -> list[Path]:
        return list(dict.fromkeys(self._run.values()))

    def close(self) -> None:
        for folder in self.folders():
            groups.empty_and_remove(folder)
