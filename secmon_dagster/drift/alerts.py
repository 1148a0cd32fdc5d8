"""The life of an alert: raised, escalated or lowered when the level changes, resolved at NORMAL."""

from __future__ import annotations

from enum import StrEnum

from secmon_dagster.drift.vocabulary import AlertLevel


class AlertEvent(StrEnum):
    """What is told; a level that stays is told once."""

    RAISED = "raised"
    ESCALATED = "escalated"
    LOWERED = "lowered"
    RESOLVED = "resolved"


def alert_event(before: AlertLevel | None, now: AlertLevel | None) -> AlertEvent | None:
    """What to tell when a model's level goes from ``before`` to ``now``.

    A check that could not judge (``now`` is None) changes nothing: an open alert stays open.

    >>> alert_event(None, AlertLevel.WARNING)
    <AlertEvent.RAISED: 'raised'>
    >>> alert_event(AlertLevel.CRITICAL, AlertLevel.CRITICAL) is None
    True
    """
    before = before or AlertLevel.NORMAL
    if now is None or now is before:
        return None
    if now is AlertLevel.NORMAL:
        return AlertEvent.RESOLVED
    if before is AlertLevel.NORMAL:
        return AlertEvent.RAISED
    return AlertEvent.ESCALATED if now.rank > before.rank else AlertEvent.LOWERED
