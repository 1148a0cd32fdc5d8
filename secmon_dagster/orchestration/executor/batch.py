"""Events of a run's steps that are stored together."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from dagster import DagsterInstance

from secmon_dagster.orchestration.dagster_internals import (
    EventLogEntry,
    is_trouble_of_the_database,
    store_events,
)
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
        """Store what waits, and tell what was stored.

        What no storage would take is its step's fault, see ``RunningStep.forged``, and lost.
        """
        waiting, self._waiting, self._due = self._waiting, [], math.inf
        try:
            store_events(self._instance, [entry for _, entry in waiting])
        except Exception as unfit:
            # Storages raise what they like over what an event holds; one statement stored nothing.
            if is_trouble_of_the_database(unfit):
                raise
            return [each for each in waiting if self._store_alone(*each)]
        return waiting

    def _store_alone(self, step: RunningStep, entry: EventLogEntry) -> bool:
        try:
            self._instance.handle_new_event(entry)
        except Exception as unfit:
            if is_trouble_of_the_database(unfit):
                raise
            step.forged = step.forged or f"sent an event that can't be stored: {unfit}"
            return False
        return True
