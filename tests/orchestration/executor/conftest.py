"""Instances and runs for the executor's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterInstance, JobExecutionResult

# Not first: Dagster's loader leaves out the first entry.
sys.path.append(str(Path(__file__).parent))


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


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """An instance with SQLite storage and local compute logs."""
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture(scope="session")
def run(instance: DagsterInstance) -> Any:
    """Executes a job of ``jobs.py`` and returns the :class:`Run`; the same call, the same run.

    A run's zygote takes seconds to start, so tests look at one run from many sides.
    """
    known: dict[str, Run] = {}

    def execute(
        job: Any,
        *,
        config: Mapping[str, Any] | None = None,
        target: Any = None,
        stock: bool = False,
    ) -> Run:
        name = f"{job.name} {config}"
        if name not in known:
            executor = {"max_concurrent": 2, **(config or {})}
            if not stock:
                executor = {"grace": 1.0, "audit": "off", **executor}
            result = dg.execute_job(
                dg.reconstructable(target or job),
                instance=instance,
                run_config={"execution": {"config": executor}},
            )
            known[name] = Run(result, instance)
        return known[name]

    return execute
