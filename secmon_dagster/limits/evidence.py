"""From what is known about an ended process to the one cause that is reported.

The order is fixed: proof of an out-of-memory condition, then the reason we ended it for, then the
signal. An exit status alone never names a limit: −9 may have come from anyone.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import StrEnum

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.violation import Severity, Violation, ViolationType

MB = 1024 * 1024
_LONGEST_DETAIL = 300


class KillReason(StrEnum):
    """Why a box was ended from outside."""

    MEMORY = "memory"
    TIME = "time"
    CPU = "cpu"
    PROCESSES = "processes"
    NETWORK = "network"
    PROTOCOL = "protocol"
    ENTRY = "entry"
    INTERRUPT = "interrupt"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the back end found after the last process was gone, before the box was removed.

    ``oom_kills`` is the kernel's own counter; ``oom_seen`` says that the group was at its limit
    when we looked, or that sampling saw it over.
    """

    oom_kills: int = 0
    oom_seen: bool = False
    peak_memory_bytes: int | None = None
    forks_refused: int = 0
    counters: dict[str, float | int | str] = field(default_factory=dict)


def cause(
    limits: ResourceLimits,
    evidence: Evidence,
    reason: KillReason | None,
    *,
    enforcement: str,
    observed: float | None = None,
    detail: str | None = None,
) -> Violation | None:
    """The violation that ended the box, if one did.

    Args:
        limits: complete limits, see :data:`DEFAULT_LIMITS`.
        observed: what was measured when we decided, in the unit of the reason: bytes, seconds,
            percent, processes or attempts.
        detail: for NETWORK and PROTOCOL, what was tried.
    """
    counters = dict(evidence.counters)
    detail = _readable(detail)
    if evidence.oom_kills or evidence.oom_seen or reason is KillReason.MEMORY:
        limit = None if limits.max_memory_mb is None else round(limits.max_memory_mb * MB)
        peak = evidence.peak_memory_bytes if evidence.peak_memory_bytes is not None else observed
        return Violation(
            type=ViolationType.MEMORY_LIMIT_EXCEEDED,
            severity=Severity.HIGH,
            message=f"used all of its {_mb(limit)} of memory (peak {_mb(peak)}) and was ended",
            limit=limit,
            observed=peak,
            unit="bytes",
            enforcement=enforcement,
            evidence={
                **counters,
                "oom_kill": evidence.oom_kills,
                "under_oom": int(evidence.oom_seen),
            },
        )
    if reason is KillReason.TIME:
        allowed = (limits.max_execution_time_ms or 0) / 1000
        return Violation(
            type=ViolationType.TIME_LIMIT_EXCEEDED,
            severity=Severity.HIGH,
            message=f"ran longer than its {allowed:g} s and was ended",
            limit=allowed,
            observed=observed,
            unit="seconds",
            enforcement=enforcement,
            evidence=counters,
        )
    if reason is KillReason.CPU:
        return Violation(
            type=ViolationType.CPU_LIMIT_EXCEEDED,
            severity=Severity.HIGH,
            message=f"stayed at its {limits.max_cpu_percent:g} % of one core and was ended",
            limit=limits.max_cpu_percent,
            observed=observed,
            unit="percent of one core",
            enforcement=enforcement,
            evidence=counters,
        )
    if reason is KillReason.PROCESSES:
        return Violation(
            type=ViolationType.UNAUTHORIZED_ACCESS,
            severity=Severity.CRITICAL,
            message=f"started more than its {limits.max_processes} processes and was ended",
            limit=limits.max_processes,
            observed=observed,
            unit="processes",
            enforcement=enforcement,
            evidence={**counters, "forks_refused": evidence.forks_refused},
        )
    if reason is KillReason.ENTRY:
        return Violation(
            type=ViolationType.INVALID_CONFIGURATION,
            severity=Severity.CRITICAL,
            message=f"was not run: its box could not be entered ({detail})",
            enforcement=enforcement,
            evidence=counters,
        )
    if reason in (KillReason.NETWORK, KillReason.PROTOCOL):
        return Violation(
            type=ViolationType.UNAUTHORIZED_ACCESS,
            severity=Severity.CRITICAL,
            message=f"{detail or 'did what its layer denies'} and was ended",
            limit=0,
            observed=observed,
            unit="attempts",
            enforcement=enforcement,
            evidence=counters,
        )
    return None


def is_enforced(limits: ResourceLimits, reason: KillReason) -> bool:
    """Whether passing this limit ends the process; ``limits`` are complete."""
    return bool(
        {
            KillReason.TIME: limits.enforce_time_limit,
            KillReason.CPU: limits.enforce_cpu_limit,
            KillReason.MEMORY: limits.enforce_memory_limit,
            KillReason.NETWORK: limits.enforce_network_limit,
        }.get(reason, True)
    )


def not_enforced(
    limits: ResourceLimits,
    reason: KillReason,
    *,
    enforcement: str,
    observed: float | None = None,
    detail: str | None = None,
    counters: dict[str, float | int | str] | None = None,
) -> Violation:
    """A limit that was passed and is only watched: medium, and the process goes on."""
    if reason is KillReason.MEMORY:
        limit: float | None = round((limits.max_memory_mb or 0) * MB)
        kind, unit = ViolationType.MEMORY_LIMIT_EXCEEDED, "bytes"
        message = f"uses {_mb(observed)} of memory, more than its {_mb(limit)}; not enforced"
    elif reason is KillReason.TIME:
        limit = (limits.max_execution_time_ms or 0) / 1000
        kind, unit = ViolationType.TIME_LIMIT_EXCEEDED, "seconds"
        message = f"runs longer than its {limit:g} s; not enforced"
    elif reason is KillReason.CPU:
        limit = limits.max_cpu_percent
        kind, unit = ViolationType.CPU_LIMIT_EXCEEDED, "percent of one core"
        message = f"stays at its {limit:g} % of one core"
    else:
        limit = 0
        kind, unit = ViolationType.UNAUTHORIZED_ACCESS, "attempts"
        message = f"{_readable(detail) or 'did what its layer denies'}; denied"
    return Violation(
        type=kind,
        severity=Severity.MEDIUM,
        message=message,
        limit=limit,
        observed=observed,
        unit=unit,
        enforcement=enforcement,
        evidence=dict(counters or {}),
    )


def how_it_ended(exit_code: int | None, signal_number: int | None) -> str:
    """``exited with 3``, ``was killed by SIGSEGV``."""
    if signal_number is not None:
        try:
            return f"was killed by {signal.Signals(signal_number).name}"
        except ValueError:
            return f"was killed by signal {signal_number}"
    if exit_code is None:
        return "disappeared without an exit status"
    return f"exited with {exit_code}"


def _readable(detail: str | None) -> str | None:
    """What a process chose to be said of it, fit for a line and for a database."""
    if detail is None:
        return None
    return "".join(char if char.isprintable() else "\ufffd" for char in detail[:_LONGEST_DETAIL])


def _mb(size: float | None) -> str:
    return "?" if size is None else f"{size / MB:.0f} MB"
