"""Events of a run's steps that are stored together."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from dagster import DagsterInstance

from secmon_dagster.orchestration.dagster_internals import EventLogEntry, store_events
from secmon_dagster.orchestration.executor.steps import RunningStep

_LINGER = 0.05
"""Seconds that an event may wait for others, if nothing depends on it."""


class Batch:
    """Events in the order they came in; one statement stores what :meth:`add` was given."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._waiting: list[tuple[RunningStep, EventLogEntry]] = []
        self._due = math.inf

    def add(self, step: RunningStep, entries: Sequence[EventLogEntry]) -> None:
        self._waiting += [(step, entry) for entry in entries]
        self._due = min(self._due, time.monotonic() + _LINGER)

    def due_in(self) -> float:
        """Seconds until what waits should be stored."""
        return max(0.0, self._due - time.monotonic())

    def store(self) -> list[tuple[RunningStep, EventLogEntry]]:
        """Store what waits, and tell what it was."""
        stored, self._waiting, self._due = self._waiting, [], math.inf
        store_events(self._instance, [entry for _, entry in stored])
        return stored
