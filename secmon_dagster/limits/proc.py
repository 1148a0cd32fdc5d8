"""Processes as ``/proc`` shows them: who descends from whom, what they use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One line of ``/proc/PID/stat``, as far as it is used; ``started`` is in clock ticks."""

    pid: int
    parent: int
    state: str
    started: int
    cpu_seconds: float
    rss_bytes: int
    threads: int


def parse_stat(line: bytes) -> ProcessStat:
    """Read ``pid (name) state ppid …``; the name may hold spaces and parentheses."""
    head, _, tail = line.rpartition(b")")
    values = tail.split()
    return ProcessStat(
        pid=int(head.split(b" ", 1)[0]),
        state=values[0].decode(),
        parent=int(values[1]),
        cpu_seconds=(int(values[11]) + int(values[12])) / _TICK,
        started=int(values[19]),
        rss_bytes=int(values[21]) * _PAGE,
        threads=int(values[17]),
    )


def stat_of(pid: int) -> ProcessStat | None:
    """What the process is doing, or ``None`` if it is gone."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None


def started_at(pid: int) -> int | None:
    """Start time in clock ticks since boot: with the pid it names a process for good."""
    found = stat_of(pid)
    return None if found is None else found.started


def children_of(pid: int) -> list[int]:
    """Children of all threads of a process."""
    found: list[int] = []
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            listing = (thread / "children").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.extend(int(child) for child in listing.split())
    return found


def descendants_of(roots: Iterable[int]) -> list[int]:
    """The roots and everything below them, parents before children."""
    found: list[int] = []
    waiting = list(roots)
    seen: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        found.append(pid)
        waiting.extend(children_of(pid))
    return found


def private_and_shared_bytes(pid: int) -> tuple[int, int] | None:
    """Memory only this process maps, and its share of what others map too; zeros if it is gone.

    ``None`` if it isn't ours to read, which a process can bring about itself.

    A page that n processes map counts a nth in the second figure (PSS less USS). Costs about 8 µs
    per mapped MB and holds the process's memory map locked while it lasts, so it is no measure to
    poll with.
    """
    proportional = private = 0
    try:
        with (PROC / str(pid) / "smaps_rollup").open("rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    proportional = int(line.split()[1]) * 1024
                elif line.startswith((b"Private_Clean:", b"Private_Dirty:")):
                    private += int(line.split()[1]) * 1024
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return private, max(0, proportional - private)


def io_bytes(pid: int) -> tuple[int, int]:
    """Bytes read from and written to storage so far; zeros if it is gone or not ours to read."""
    try:
        text = (PROC / str(pid) / "io").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0, 0
    values = dict(line.split(b": ") for line in text.splitlines())
    return int(values[b"read_bytes"]), int(values[b"write_bytes"])


def tasks_of_user(user: int) -> int:
    """Processes and threads that a user runs now."""
    total = 0
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                owner = entry.stat().st_uid
            except FileNotFoundError:
                continue
            found = stat_of(int(entry.name)) if owner == user else None
            total += found.threads if found is not None else 0
    return total
