"""Control groups, version 2: one hierarchy, and a kernel that ends a group as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.backends.base import Reading
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import MB, Evidence

CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD_US = 100_000


class Cgroup2Box:
    """One group."""

    def __init__(self, folder: Path, limits: ResourceLimits) -> None:
        self._folder = folder
        self._changes: groups.Changes | None = None
        self._time: groups.KeptFile | None = None
        groups.make(folder)
        try:
            self._apply(limits)
        except (EnforcementUnavailableError, OSError):
            self.destroy()
            raise

    def _apply(self, limits: ResourceLimits) -> None:
        if limits.enforce_memory_limit and limits.max_memory_mb is not None:
            groups.write(self._folder / "memory.max", str(round(limits.max_memory_mb * MB)))
            if (self._folder / "memory.swap.max").exists():
                groups.write(self._folder / "memory.swap.max", "0")
            # One for all: a killed child must not leave a parent that reports success.
            groups.write(self._folder / "memory.oom.group", "1")
        if limits.max_cpu_percent is not None:
            quota = max(1000, round(_PERIOD_US * limits.max_cpu_percent / 100))
            groups.write(self._folder / "cpu.max", f"{quota} {_PERIOD_US}")
        if limits.max_processes is not None:
            groups.write(self._folder / "pids.max", str(limits.max_processes))
        self._changes = groups.Changes(
            [self._folder / "memory.events", self._folder / "pids.events"]
        )
        self._time = groups.KeptFile(self._folder / "cpu.stat")

    def plan(self) -> dict[str, Any]:
        return {"join": [str(self._folder / "cgroup.procs")]}

    def adopt(self, pid: int, warm_parent: int | None = None) -> None:
        """The group knows its processes."""

    def alarms(self) -> list[int]:
        return [] if self._changes is None else [self._changes.fileno()]

    def _oom_kills(self) -> int:
        local = groups.table(self._folder / "memory.events.local")
        events = local or groups.table(self._folder / "memory.events")
        return events.get("oom_kill", 0)

    def read(self) -> Reading:
        if self._changes is not None:
            self._changes.seen()
        time = groups.table(self._folder / "cpu.stat")
        read_bytes, written_bytes = self._io()
        return Reading(
            memory_bytes=groups.number(self._folder / "memory.current"),
            cpu_seconds=time.get("usage_usec", 0) / 1e6,
            periods=time.get("nr_periods"),
            throttled_periods=time.get("nr_throttled"),
            throttled_seconds=time.get("throttled_usec", 0) / 1e6,
            processes=groups.number(self._folder / "pids.current"),
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            out_of_memory=self._oom_kills() > 0,
            forks_refused=groups.table(self._folder / "pids.events").get("max", 0),
        )

    def glance(self) -> Reading:
        # Out of memory and refused forks are announced, see alarms().
        time = {} if self._time is None else self._time.table()
        return Reading(
            cpu_seconds=time.get("usage_usec", 0) / 1e6,
            periods=time.get("nr_periods"),
            throttled_periods=time.get("nr_throttled"),
        )

    def _io(self) -> tuple[int | None, int | None]:
        try:
            lines = (self._folder / "io.stat").read_text().splitlines()
        except OSError:
            return None, None
        totals = {"rbytes": 0, "wbytes": 0}
        for line in lines:
            for pair in line.split()[1:]:
                key, _, value = pair.partition("=")
                if key in totals:
                    totals[key] += int(value)
        return totals["rbytes"], totals["wbytes"]

    def kill(self) -> bool:
        return groups.end(self._folder)

    def evidence(self) -> Evidence:
        reading = self.read()
        return Evidence(
            oom_kills=self._oom_kills(),
            peak_memory_bytes=groups.number(self._folder / "memory.peak"),
            forks_refused=reading.forks_refused,
            counters={
                "nr_periods": reading.periods or 0,
                "nr_throttled": reading.throttled_periods or 0,
            },
        )

    def destroy(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        if self._time is not None:
            self._time.close()
            self._time = None
        groups.remove(self._folder)


class Cgroup2:
    """Groups below a group that is ours to manage: ``<base>/<run>/<box>``."""

    name = "cgroup2"
    look_every = None

    def __init__(self, base: Path, run_name: str) -> None:
        self._base = base
        self._run = base / run_name
        delegate(base)
        groups.make(self._run)
        groups.write(self._run / "cgroup.subtree_control", _enable())

    def create(self, name: str, limits: ResourceLimits) -> Cgroup2Box:
        return Cgroup2Box(self._run / name, limits)

    def folders(self) -> list[Path]:
        return [self._run]

    def close(self) -> None:
        groups.empty_and_remove(self._run)


def _enable() -> str:
    return " ".join(f"+{controller}" for controller in CONTROLLERS)


def delegate(base: Path) -> None:
    """Hand the controllers of ``base`` down to its children.

    A group below the root can't have processes and hand controllers down at once, so its processes
    (ours, in a group that was delegated to us) move into a leaf first.

    Raises:
        EnforcementUnavailableError: a controller is missing or the group isn't ours.
    """
    available = (base / "cgroup.controllers").read_text().split()
    missing = [controller for controller in CONTROLLERS if controller not in available]
    if missing:
        raise EnforcementUnavailableError(
            f"{base} has no controller {', '.join(missing)}",
            hint="Start under `systemd-run --user -p Delegate=yes --scope`, or as root.",
        )
    enabled = (base / "cgroup.subtree_control").read_text().split()
    if set(CONTROLLERS) <= set(enabled):
        return
    try:
        groups.write(base / "cgroup.subtree_control", _enable())
    except EnforcementUnavailableError:
        leaf = base / "secmon-leaf"
        groups.make(leaf)
        for pid in groups.processes(base):
            groups.write(leaf / "cgroup.procs", str(pid))
        groups.write(base / "cgroup.subtree_control", _enable())
