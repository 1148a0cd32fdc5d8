"""A running step as the run's process keeps book of it: what to store now, what to hold back."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from dagster import DagsterEvent, DagsterEventType

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.violation import Violation
from secmon_dagster.orchestration.dagster_internals import (
    EventLogEntry,
    IStepContext,
    SerializableErrorInfo,
    StepOutputHandle,
)
from secmon_dagster.orchestration.executor.events import FAILURE_LABEL

_MOST_HELD = 64 * 1024 * 1024
"""Weight of what a step may say after its terminal event, which waits in memory."""

_MAPPING_KEY = re.compile(r"\w+")

_TERMINAL = {
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_UP_FOR_RETRY,
}

_BEFORE_THE_END = _TERMINAL | {
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.RESOURCE_INIT_FAILURE,
}
"""What moves a run on; after its end a step has only hooks and logs to speak of."""

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
    forged: str | None = None
    """What it sent that it must not; it is being ended for that, or already over."""
    violation: Violation | None = None
    unread: int = 0
    """Weight of what it sent without having been told that it was dealt with."""
    held_weight: int = 0
    outputs: set[StepOutputHandle] = field(default_factory=set)

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
            if kind in _BEFORE_THE_END and (self.held or self.outcome != "running"):
                raise ForgedEvent(f"sent {kind.value} when it was over")
            if kind is DagsterEventType.STEP_OUTPUT:
                self._check_output(event.step_output_data.step_output_handle)
            if kind is DagsterEventType.STEP_UP_FOR_RETRY:
                delay = event.step_retry_data.seconds_to_wait or 0
                if self.context.retry_mode.disabled or not math.isfinite(delay):
                    raise ForgedEvent(f"asked for a retry that can't be, in {delay} s")
            if _speaks_of_a_violation(event):
                raise ForgedEvent("sent a violation, which is for its watcher to find")
            if kind is DagsterEventType.LOGS_CAPTURED:
                key = event.logs_captured_data.file_key
                if not key.isalnum():
                    raise ForgedEvent(f"sent a file of logs called {key}")
                self.log_file_key = key
        if self.held or kind in _TERMINAL:
            self.held.append(entry)
            return []
        return [entry]

    def hold(self, weight: int) -> None:
        """Count what isn't stored until the step is over.

        Raises:
            ForgedEvent: it is too much.
        """
        self.held_weight += weight
        if self.held_weight > _MOST_HELD:
            raise ForgedEvent("went on sending when it was over")

    def _check_output(self, handle: StepOutputHandle) -> None:
        step = self.context.step
        if handle.step_key != self.key:
            raise ForgedEvent(f"sent an output of step {handle.step_key}")
        name, key = handle.output_name, handle.mapping_key
        if (
            not step.has_step_output(name)
            or step.step_output_named(name).is_dynamic != (key is not None)
            or (key is not None and not _MAPPING_KEY.fullmatch(key))
            or (key is not None and handle in self.outputs)
        ):
            raise ForgedEvent(f"sent an output it doesn't have: {name}")
        self.outputs.add(handle)

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


def _speaks_of_a_violation(event: DagsterEvent) -> bool:
    if event.is_step_failure:
        told = event.step_failure_data.user_failure_data
        return told is not None and told.label == FAILURE_LABEL
    return event.is_engine_event and "violation" in event.engine_event_data.metadata
