"""What is said about a process that was at, or over, a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum


class ViolationType(StrEnum):
    """The five kinds of violation."""

    MEMORY_LIMIT_EXCEEDED = "memory_limit_exceeded"
    CPU_LIMIT_EXCEEDED = "cpu_limit_exceeded"
    TIME_LIMIT_EXCEEDED = "time_limit_exceeded"
    UNAUTHORIZED_ACCESS = "unauthorized_access"
    INVALID_CONFIGURATION = "invalid_configuration"


class Severity(StrEnum):
    """How bad it is, and so what happens: high and critical end the process."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def ends_execution(self) -> bool:
        return self in (Severity.HIGH, Severity.CRITICAL)


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation with what proves it.

    ``limit`` and ``observed`` are in the unit that ``unit`` names (``bytes``, ``seconds``,
    ``percent of one core``, ``processes``, ``attempts``). ``evidence`` holds the kernel's own
    counters and files by name, as numbers or short strings.
    """

    type: ViolationType
    severity: Severity
    message: str
    limit: float | None = None
    observed: float | None = None
    unit: str | None = None
    execution_id: str | None = None
    job_id: str | None = None
    enforcement: str = "sampled"
    evidence: dict[str, float | int | str] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_dict(self) -> dict[str, object]:
        """As it is written to the audit chain and to JSON reports."""
        return {
            "type": self.type.value,
            "severity": self.severity.value,
            "message": self.message,
            "limit": self.limit,
            "observed": self.observed,
            "unit": self.unit,
            "execution_id": self.execution_id,
            "job_id": self.job_id,
            "enforcement": self.enforcement,
            "evidence": dict(self.evidence),
            "at": self.at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a box consumed, all its processes together.

    ``None`` where the back end can't tell; times in seconds, sizes in bytes. Throttled time is how
    long the box wanted the CPU and was held back by its quota.
    """

    wall_seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    throttled_seconds: float | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None

    @property
    def cpu_percent(self) -> float | None:
        """Mean use as a percentage of one core."""
        if self.cpu_seconds is None or self.wall_seconds <= 0:
            return None
        return 100.0 * self.cpu_seconds / self.wall_seconds

    def to_dict(self) -> dict[str, float | int | None]:
        return {
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "throttled_seconds": self.throttled_seconds,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
        }
