"""A finished run as tests look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dagster import DagsterEventType, DagsterInstance, JobExecutionResult


@dataclass(frozen=True)
class Run:
    """One finished run and what its instance remembers of it."""

    result: JobExecutionResult
    instance: DagsterInstance

    @property
    def succeeded(self) -> bool:
        return self.result.success

    def events(self, kind: DagsterEventType | None = None, step: str | None = None) -> list[Any]:
        entries = self.instance.all_logs(self.result.run_id)
        found = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
        return [
            event
            for event in found
            if (kind is None or event.event_type is kind)
            and (step is None or event.step_key == step)
        ]

    def kinds(self, step: str) -> list[str]:
        return [event.event_type_value for event in self.events(step=step)]

    def failure(self, step: str) -> Any:
        [event] = self.events(DagsterEventType.STEP_FAILURE, step)
        return event.step_failure_data

    def violation(self, step: str) -> str | None:
        data = self.failure(step).user_failure_data
        return None if data is None else data.metadata["violation"].value
