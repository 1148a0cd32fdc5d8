"""One boxed process as its supervisor sees it, and what the supervisor tells about it."""

from __future__ import annotations

import re
import select
import signal
from dataclasses import dataclass, field
from typing import Any

from secmon_dagster.errors import LimitsError, SecmonError
from secmon_dagster.limits.backends import Box, Reading
from secmon_dagster.limits.channel import weight
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import Evidence, KillReason, cause
from secmon_dagster.limits.link import Link
from secmon_dagster.limits.network_filter import has_filters
from secmon_dagster.limits.violation import ResourceUsage, Violation
from secmon_dagster.limits.zygote import Exit

SATURATED = 0.9
"""Share of quota periods that ran out; a process that wants more than it gets shows 30 of 31."""

WINDOWS = 3
"""Windows in a row before saturation is called sustained."""


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs."""

    key: str
    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The process was not started."""

    key: str
    error: SecmonError


@dataclass(frozen=True, slots=True)
class Frame:
    """The process sent something; acknowledge its weight with ``Supervisor.consumed``."""

    key: str
    payload: bytes

    @property
    def weight(self) -> int:
        return weight(self.payload)


@dataclass(frozen=True, slots=True)
class Warned:
    """A limit that is only watched was passed."""

    key: str
    violation: Violation


@dataclass(frozen=True, slots=True)
class Decided:
    """A limit was passed and the process is being ended; :class:`Ended` will follow."""

    key: str
    reason: KillReason


@dataclass(frozen=True, slots=True)
class Ended:
    """The process and all it started are gone."""

    key: str
    exit_code: int | None
    signal: int | None
    reason: KillReason | None
    violation: Violation | None
    usage: ResourceUsage
    evidence: Evidence
    enforcement: str
    detail: str | None = None


Notice = Started | Refused | Frame | Warned | Decided | Ended


class CpuWindows:
    """Counts windows in a row in which a box was at its CPU limit."""

    def __init__(self, limit_percent: float | None) -> None:
        self._limit = limit_percent
        self._last: tuple[float, Reading] | None = None
        self._row = 0

    def sustained(self, now: float, reading: Reading) -> float | None:
        """The mean percentage of the last window, once :data:`WINDOWS` of them were saturated."""
        last, self._last = self._last, (now, reading)
        if last is None or self._limit is None:
            return None
        then, before = last
        elapsed = now - then
        if elapsed <= 0:
            return None
        used = None
        if reading.cpu_seconds is not None and before.cpu_seconds is not None:
            used = 100.0 * (reading.cpu_seconds - before.cpu_seconds) / elapsed
        if reading.periods is None or before.periods is None:
            saturated = used is not None and used > self._limit
        else:
            periods = reading.periods - before.periods
            throttled = (reading.throttled_periods or 0) - (before.throttled_periods or 0)
            # A box that slept for half the window isn't held back, whatever its other half did.
            saturated = periods > elapsed * 5 and throttled >= SATURATED * periods
        self._row = self._row + 1 if saturated else 0
        return used if self._row >= WINDOWS else None


@dataclass(frozen=True, slots=True)
class Order:
    """A process that is to be started, with complete limits, as soon as there is a warm zygote."""

    key: str
    spec: bytes
    limits: ResourceLimits
    grace: float
    repeated: bool = False
    """Whether a zygote was lost over it before."""


@dataclass(slots=True)
class Watched:
    """State of one boxed process. Times are of the monotonic clock."""

    key: str
    limits: ResourceLimits
    box: Box
    pid: int
    pidfd: int | None
    link: Link
    started: float
    grace: float
    deadline: float | None = None
    escalation: list[tuple[float, signal.Signals | None]] = field(default_factory=list)
    """When to send what next; ``None`` stands for ending the whole box."""
    next_look: float | None = None
    reason: KillReason | None = None
    observed: float | None = None
    detail: str | None = None
    exit: Exit | None = None
    ended_at: float = 0.0
    give_up: float | None = None
    attempts: int = 0
    reading: Reading = field(default_factory=Reading)
    windows: CpuWindows = field(default_factory=lambda: CpuWindows(None))
    warned: set[KillReason] = field(default_factory=set)
    adopted: bool = False
    """The zygote is gone and the exit is ours to wait for."""
    unreported_since: float | None = None
    """When it was first seen to be gone without a word of it from the zygote."""

    def is_gone(self) -> bool:
        """Whether the process has ended, reported or not."""
        if self.pidfd is None:
            return False
        watch = select.poll()
        watch.register(self.pidfd, select.POLLIN)
        return bool(watch.poll(0))

    def due(self) -> float | None:
        """The next moment at which something has to be done about it."""
        moments = [
            self.deadline,
            self.escalation[0][0] if self.escalation else None,
            self.next_look,
            self.ended_at if self.exit is not None else None,
        ]
        return min((moment for moment in moments if moment is not None), default=None)


def entry_plan(box: Box, limits: ResourceLimits) -> dict[str, Any]:
    """What a process does to itself to enter ``box`` under ``limits`` (complete)."""
    network = limits.allow_network is not False
    return {**box.plan(), "network": network, "notify": not network and has_filters()}


def folder_name(key: str) -> str:
    """A key as it may be part of a group's folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:100]


STRAIGHT_TO_KILL = {
    KillReason.MEMORY,
    KillReason.PROCESSES,
    KillReason.NETWORK,
    KillReason.PROTOCOL,
    KillReason.ENTRY,
    KillReason.SHUTDOWN,
}
"""Reasons for which a process isn't asked first."""


def escalation(
    reason: KillReason, now: float, grace: float
) -> list[tuple[float, signal.Signals | None]]:
    """When to send which signal; ``None`` stands for ending the whole box."""
    if reason in STRAIGHT_TO_KILL:
        return [(now, None)]
    if reason is KillReason.INTERRUPT:
        return [
            (now, signal.SIGINT),
            (now + grace, signal.SIGTERM),
            (now + 2 * grace, None),
        ]
    return [(now, signal.SIGTERM), (now + grace, None)]


def outcome(watched: Watched, enforcement: str, now: float) -> Ended:
    """What became of a process that is gone, with its box still there to be read."""
    report = watched.exit
    if report is None:
        raise LimitsError(f"{watched.key} has no outcome before it ended")
    evidence, last = watched.box.evidence(), watched.box.read()
    reason = watched.reason
    if reason is None and evidence.forks_refused:
        reason = KillReason.PROCESSES
    return Ended(
        key=watched.key,
        exit_code=report.code,
        signal=report.signal,
        reason=reason,
        violation=cause(
            watched.limits,
            evidence,
            reason,
            enforcement=enforcement,
            observed=watched.observed,
            detail=watched.detail,
        ),
        usage=ResourceUsage(
            wall_seconds=now - watched.started,
            cpu_seconds=report.cpu_seconds if last.cpu_seconds is None else last.cpu_seconds,
            peak_memory_bytes=evidence.peak_memory_bytes,
            throttled_seconds=last.throttled_seconds,
            read_bytes=report.read_bytes if last.read_bytes is None else last.read_bytes,
            written_bytes=(
                report.written_bytes if last.written_bytes is None else last.written_bytes
            ),
        ),
        evidence=evidence,
        enforcement=enforcement,
        detail=watched.detail,
    )


def never_started(order: Order, reason: KillReason, enforcement: str) -> Ended:
    """The end of a process that was called off before it was started."""
    return Ended(
        key=order.key,
        exit_code=None,
        signal=None,
        reason=reason,
        violation=None,
        usage=ResourceUsage(),
        evidence=Evidence(),
        enforcement=enforcement,
        detail="was never started and ended",
    )
