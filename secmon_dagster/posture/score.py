"""How far an instance can be trusted: results of checks, points, score and bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CheckType(StrEnum):
    """The six things that are checked."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    DATA_VALIDATION = "data_validation"
    RATE_LIMITING = "rate_limiting"
    INPUT_SANITIZATION = "input_sanitization"
    OUTPUT_ENCODING = "output_encoding"


class CheckStatus(StrEnum):
    """What a check found. ``monitoring`` means: no evidence either way yet."""

    PASSED = "passed"
    MONITORING = "monitoring"
    WARNING = "warning"
    FAILED = "failed"


class Severity(StrEnum):
    """How much it matters."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Band(StrEnum):
    """The score in a word, best first."""

    SECURE = "secure"
    MONITORING = "monitoring"
    WARNING = "warning"
    COMPROMISED = "compromised"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    check_type: CheckType
    status: CheckStatus
    severity: Severity
    description: str
    details: dict[str, Any]


POINTS = {
    CheckStatus.PASSED: 100,
    CheckStatus.MONITORING: 75,
    CheckStatus.WARNING: 50,
    CheckStatus.FAILED: 0,
}

_LOWEST = {Band.SECURE: 90.0, Band.MONITORING: 70.0, Band.WARNING: 50.0, Band.COMPROMISED: 0.0}


def score(latest: Mapping[CheckType, CheckStatus]) -> float:
    """Mean points of the latest result of each check type, 0 to 100.

    A type that was never checked counts nothing; with none at all there is no evidence, which is
    what ``monitoring`` stands for.

    >>> score({CheckType.AUTHENTICATION: CheckStatus.PASSED,
    ...        CheckType.AUTHORIZATION: CheckStatus.WARNING})
    75.0
    >>> score({})
    75.0
    """
    if not latest:
        return float(POINTS[CheckStatus.MONITORING])
    return sum(POINTS[status] for status in latest.values()) / len(latest)


def band(value: float) -> Band:
    """The band of a score: secure from 90, monitoring from 70, warning from 50.

    >>> band(89.99).value
    'monitoring'
    """
    return next(name for name, lowest in _LOWEST.items() if value >= lowest)


def is_lower(now: Band, before: Band) -> bool:
    """Whether ``now`` is a worse band than ``before``."""
    return _LOWEST[now] < _LOWEST[before]
