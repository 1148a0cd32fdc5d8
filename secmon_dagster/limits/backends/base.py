"""What every back end can do: make a box, and the box's own verbs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Reading:
    """A box at one moment. ``None`` where this back end can't tell.

    ``periods`` and ``throttled_periods`` count the scheduler's quota periods in which the box ran,
    and those in which its quota ran out.
    """

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    processes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    out_of_memory: bool = False
    forks_refused: int = 0
    look_again: float | None = None
    """Seconds after which another look may show what this one could not yet."""
    counters: dict[str, float | int | str] = field(default_factory=dict)


class Box(Protocol):
    """The box of one process tree. Every verb but ``evidence`` may be repeated."""

    def plan(self) -> dict[str, Any]:
        """What the process does to itself to get in, see ``entry.enter``."""
        ...

    def adopt(self, pid: int, warm_parent: int | None = None) -> None:
        """Learn the first process, as soon as its id is known, and whose fork it is if it is one.

        What it shares with ``warm_parent`` isn't counted as its own memory.
        """
        ...

    def alarms(self) -> list[int]:
        """Descriptors that turn readable, or exceptional, when :meth:`read` should look now."""
        ...

    def read(self) -> Reading:
        """Look at the box."""
        ...

    def glance(self) -> Reading:
        """Look at what sustained CPU and refused forks need, at a tenth of the cost or less.

        ``cpu_seconds`` may be ``None`` while the box has a quota that didn't run out.
        """
        ...

    def kill(self) -> bool:
        """Send SIGKILL to every process inside, whatever its session, parent or signal mask.

        Returns at once; whether nothing was left. Repeat until it says so.
        """
        ...

    def evidence(self) -> Evidence:
        """What remains to be said, after the last process is gone and before :meth:`destroy`."""
        ...

    def destroy(self) -> None:
        """Remove what was created."""
        ...


class Backend(Protocol):
    """One way to limit processes on this machine."""

    @property
    def name(self) -> str:
        """``cgroup2``, ``cgroup1`` or ``sampled``; recorded with every step."""
        ...

    @property
    def look_every(self) -> float | None:
        """Seconds between the looks that enforcement needs; ``None`` if the kernel enforces."""
        ...

    def create(self, name: str, limits: ResourceLimits) -> Box:
        """A box for ``limits`` (complete). ``name`` is unique and fit for a folder.

        Raises:
            EnforcementUnavailableError: the limits can't be applied.
        """
        ...

    def folders(self) -> list[Path]:
        """What another process must remove if this one dies."""
        ...

    def close(self) -> None:
        """Remove what the back end itself created."""
        ...
