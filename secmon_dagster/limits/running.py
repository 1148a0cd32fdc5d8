"""The boxes that are in use on this machine now, whoever made them, read from their groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.backends.hierarchy import Hierarchies, find_hierarchies


@dataclass(frozen=True, slots=True)
class RunningBox:
    """One box. Sizes in bytes, CPU in seconds; ``None`` where there is no limit or no figure."""

    owner: int
    name: str
    memory: int | None
    memory_limit: int | None
    cpu_seconds: float | None
    cpu_limit_percent: float | None
    processes: int | None
    processes_limit: int | None


def running_boxes(hierarchies: Hierarchies | None = None) -> list[RunningBox]:
    """All boxes below our own group. Sampled boxes have no group and don't appear."""
    here = hierarchies or find_hierarchies()
    found = []
    if "memory" in here.version1:
        for folder in sorted(here.version1["memory"].glob("secmon-*/*/")):
            found.append(_version1(folder, here))
    if here.version2 is not None:
        for folder in sorted(here.version2.glob("secmon-*/*/")):
            if (folder / "memory.current").exists():
                found.append(_version2(folder))
    return found


def _owner(folder: Path) -> int:
    return int(folder.parent.name.split("-")[1])


def _version1(memory: Path, here: Hierarchies) -> RunningBox:
    inside = Path(memory.parent.name) / memory.name
    cpu, pids = here.version1["cpu"] / inside, here.version1["pids"] / inside
    quota = groups.number(cpu / "cpu.cfs_quota_us")
    period = groups.number(cpu / "cpu.cfs_period_us")
    used = groups.number(here.version1["cpuacct"] / inside / "cpuacct.usage")
    return RunningBox(
        owner=_owner(memory),
        name=memory.name,
        memory=groups.number(memory / "memory.usage_in_bytes"),
        memory_limit=groups.number(memory / "memory.limit_in_bytes"),
        cpu_seconds=None if used is None else used / 1e9,
        cpu_limit_percent=100 * quota / period if quota and period and quota > 0 else None,
        processes=groups.number(pids / "pids.current"),
        processes_limit=groups.number(pids / "pids.max"),
    )


def _version2(folder: Path) -> RunningBox:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        quota, period = "max", "1"
    return RunningBox(
        owner=_owner(folder),
        name=folder.name,
        memory=groups.number(folder / "memory.current"),
        memory_limit=groups.number(folder / "memory.max"),
        cpu_seconds=groups.table(folder / "cpu.stat").get("usage_usec", 0) / 1e6,
        cpu_limit_percent=None if quota == "max" else 100 * int(quota) / int(period),
        processes=groups.number(folder / "pids.current"),
        processes_limit=groups.number(folder / "pids.max"),
    )
