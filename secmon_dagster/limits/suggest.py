"""A limit proposed from history: what the last attempts used, and some room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secmon_dagster.limits.declaration import (
    MAX_MEMORY_MB,
    MAX_TIME_MS,
    STEP_MINIMUM_MB,
    ResourceLimits,
)
from secmon_dagster.limits.violation import ResourceUsage

ROOM = 1.5
"""Proposed limits are this much above the highest use seen."""

_MEMORY_STEP_MB = 32
_SHORTEST_MS = 30_000


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A proposal and what it rests on. ``attempts`` is how many were looked at."""

    op_name: str
    attempts: int
    highest_memory_mb: float | None
    longest_seconds: float
    highest_cpu_percent: float | None
    limits: ResourceLimits

    def as_code(self) -> str:
        """The declaration to write beside the op."""
        parts = []
        if self.limits.max_memory_mb is not None:
            parts.append(f'memory="{self.limits.max_memory_mb:g}MiB"')
        if self.limits.max_cpu_percent is not None:
            parts.append(f"cpu={self.limits.max_cpu_percent:g}")
        if self.limits.max_execution_time_ms is not None:
            parts.append(f'time="{self.limits.max_execution_time_ms / 1000:g}s"')
        return f"limits({', '.join(parts)})"


def suggest(op_name: str, history: Sequence[ResourceUsage]) -> Suggestion | None:
    """Propose limits for an op from the usage of its successful attempts.

    Memory: the highest peak and half of it again, in steps of 32 MB, at least what a step needs.
    Time: the longest attempt and half of it again, in whole seconds, at least 30. CPU: the highest
    mean rounded up to ten percent. ``None`` without history.
    """
    if not history:
        return None
    peaks = [usage.peak_memory_bytes / 2**20 for usage in history if usage.peak_memory_bytes]
    means = [usage.cpu_percent for usage in history if usage.cpu_percent is not None]
    longest = max(usage.wall_seconds for usage in history)
    memory = None
    if peaks:
        steps = math.ceil(max(peaks) * ROOM / _MEMORY_STEP_MB)
        memory = float(min(MAX_MEMORY_MB, max(STEP_MINIMUM_MB, steps * _MEMORY_STEP_MB)))
    time_ms = min(MAX_TIME_MS, max(_SHORTEST_MS, math.ceil(longest * ROOM) * 1000))
    cpu = min(100.0, max(10.0, math.ceil(max(means) / 10) * 10.0)) if means else None
    return Suggestion(
        op_name=op_name,
        attempts=len(history),
        highest_memory_mb=max(peaks, default=None),
        longest_seconds=longest,
        highest_cpu_percent=max(means, default=None),
        limits=ResourceLimits(
            max_execution_time_ms=time_ms, max_memory_mb=memory, max_cpu_percent=cpu
        ),
    )
