"""The closed sets of this package: levels, kinds, intervals and states."""

from __future__ import annotations

from enum import StrEnum


class AlertLevel(StrEnum):
    """How far a metric moved. Ordered: ``NORMAL < WARNING < CRITICAL`` by :attr:`rank`."""

    NORMAL = "NORMAL"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"

    @property
    def rank(self) -> int:
        """0, 1 or 2, so that levels can be compared."""
        return list(AlertLevel).index(self)


def worst(levels: list[AlertLevel | None]) -> AlertLevel | None:
    """The highest level among those that are known; None if none is.

    >>> worst([AlertLevel.NORMAL, None, AlertLevel.WARNING])
    <AlertLevel.WARNING: 'WARNING'>
    >>> worst([None]) is None
    True
    """
    known = [level for level in levels if level is not None]
    return max(known, key=lambda level: level.rank) if known else None


class FeatureKind(StrEnum):
    """How a column is read. Booleans are categories, instants are numbers (seconds since 1970)."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    DATETIME = "datetime"


class DriftType(StrEnum):
    """What a metric is about."""

    INPUT = "input"
    OUTPUT = "output"
    PERFORMANCE = "performance"
    BIAS = "bias"
    SAFETY = "safety"
    MISSING = "missing"


class SafetySeverity(StrEnum):
    """How bad a safety event is. HIGH and CRITICAL raise the check to CRITICAL."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def alert_level(self) -> AlertLevel:
        """The level a safety event of this severity gives the check."""
        return {
            SafetySeverity.LOW: AlertLevel.NORMAL,
            SafetySeverity.MEDIUM: AlertLevel.WARNING,
            SafetySeverity.HIGH: AlertLevel.CRITICAL,
            SafetySeverity.CRITICAL: AlertLevel.CRITICAL,
        }[self]


class ScheduleInterval(StrEnum):
    """When a model's checks are due."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    CUSTOM = "custom"


class ExecutionStatus(StrEnum):
    """The state of one check."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class CatchUp(StrEnum):
    """What happens to due times that passed while no daemon was running.

    ``ALL`` runs each of them, ``LATEST`` runs the last and records the others as SKIPPED,
    ``SKIP`` records all but the current tick as SKIPPED.
    """

    ALL = "all"
    LATEST = "latest"
    SKIP = "skip"
