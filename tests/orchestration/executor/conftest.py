"""Instances and runs for the executor's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance

from secmon_dagster.orchestration.dagster_internals import ReconstructableJob

# Not first: Dagster's loader leaves out the first entry.
sys.path.append(str(Path(__file__).parent))

from finished import Run


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
        selection: Sequence[str] | None = None,
    ) -> Run:
        to_run = job if isinstance(job, ReconstructableJob) else dg.reconstructable(target or job)
        name = f"{to_run.job_name} {config} {selection}"
        if name not in known:
            executor = {"max_concurrent": 2, **(config or {})}
            if not stock:
                executor = {"grace": 1.0, "audit": "off", **executor}
            result = dg.execute_job(
                to_run,
                instance=instance,
                run_config={"execution": {"config": executor}},
                op_selection=selection,
            )
            known[name] = Run(result, instance)
        return known[name]

    return execute
