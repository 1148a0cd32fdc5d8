"""A running step as the run's process keeps book of it: what to store now, what to hold back."""

from __future__ import annotations

from dataclasses import dataclass, field

from dagster import DagsterEventType

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.orchestration.dagster_internals import (
    EventLogEntry,
    IStepContext,
    SerializableErrorInfo,
)

_TERMINAL = {
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_UP_FOR_RETRY,
}

_FORBIDDEN = {
    DagsterEventType.STEP_SKIPPED,
    DagsterEventType.STEP_WORKER_STARTING,
    DagsterEventType.ALERT_START,
    DagsterEventType.ALERT_SUCCESS,
    DagsterEventType.ALERT_FAILURE,
}


class ForgedEvent(Exception):  # noqa: N818 - the thing itself
    """A step sent an event that isn't its own to send."""


@dataclass(slots=True)
class RunningStep:
    """One attempt of a step.

    A terminal event waits for the process's exit and the box's evidence, and whatever comes after
    it waits behind it, so that the order of events stays that of the stock executor.
    """

    context: IStepContext
    limits: ResourceLimits
    run_id: str
    held: list[EventLogEntry] = field(default_factory=list)
    error: SerializableErrorInfo | None = None
    done: bool = False
    pid: int | None = None
    attempt: int = 1
    isolated: bool = False
    log_file_key: str | None = None
    outcome: str = "running"
    unread: int = 0
    """Bytes it sent of which it hasn't been told that they were dealt with."""

    @property
    def key(self) -> str:
        return self.context.step.key

    def take(self, entry: EventLogEntry) -> list[EventLogEntry]:
        """Entries to store now.

        Raises:
            ForgedEvent: the entry speaks for another run or step, or for the run as a whole.
        """
        if entry.run_id != self.run_id:
            raise ForgedEvent(f"sent an event of run {entry.run_id}")
        if entry.step_key not in (None, self.key):
            raise ForgedEvent(f"sent an event of step {entry.step_key}")
        event = entry.dagster_event
        kind = None
        if event is not None:
            kind = event.event_type
            if event.step_key not in (None, self.key):
                raise ForgedEvent(f"sent an event of step {event.step_key}")
            if event.is_job_event or kind in _FORBIDDEN:
                raise ForgedEvent(f"sent an event of type {kind.value}")
            if kind is DagsterEventType.LOGS_CAPTURED:
                self.log_file_key = event.logs_captured_data.file_key
        if self.held or kind in _TERMINAL:
            self.held.append(entry)
            return []
        return [entry]

    @property
    def verdict(self) -> EventLogEntry | None:
        """The terminal event the step sent, if it did."""
        return self.held[0] if self.held else None

    @property
    def claims_success(self) -> bool:
        """Whether the step says it succeeded; true only if its process and box don't contradict."""
        entry = self.verdict
        event = None if entry is None else entry.dagster_event
        return event is not None and event.is_step_success
