"""The main job and the attacks on it, each as a real Dagster run in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from secmon_dagster.orchestration.actor import USER_TAG
from secmon_dagster.orchestration.platform import MODULE
from secmon_dagster.settings import get_settings

_DEMO_TAG = "secmon/demo"


@dataclass(frozen=True)
class FinishedRun:
    """What Dagster recorded about a run."""

    run: dg.DagsterRun
    failures: dict[str, dg.DagsterEvent]  # step -> its STEP_FAILURE event

    @property
    def succeeded(self) -> bool:
        """Whether every step did."""
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    def failure_text(self, step: str) -> str:
        """Why a step failed, innermost cause included; empty if it didn't."""
        if step not in self.failures:
            return ""
        error = self.failures[step].step_failure_data.error
        texts = []
        while error is not None:
            texts.append(error.message.strip())
            error = error.cause
        return " ".join(texts)

    def failure_metadata(self, step: str) -> dict[str, Any]:
        """The failure's metadata by name, plain values."""
        if step not in self.failures:
            return {}
        data = self.failures[step].step_failure_data.user_failure_data
        metadata = {} if data is None else data.metadata
        return {name: value.value for name, value in metadata.items()}


def execute(
    instance: dg.DagsterInstance,
    job: str,
    *,
    config: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    user: str,
) -> FinishedRun:
    """Run ``job`` to its end with ``dagster job execute`` and read back what was recorded.

    Raises:
        RuntimeError: Dagster made no run; its output is in the message.
    """
    mark = uuid.uuid4().hex
    folder = get_settings().home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / f"{job}.json"
    configuration.write_text(json.dumps(config or {}))  # JSON is YAML
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "dagster"),
            "job",
            "execute",
            "-m",
            MODULE,
            "-j",
            job,
            "-c",
            str(configuration),
            "--tags",
            json.dumps({_DEMO_TAG: mark, USER_TAG: user, **(tags or {})}),
        ],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
        check=False,
    )
    runs = instance.get_runs(dg.RunsFilter(tags={_DEMO_TAG: mark}), limit=1)
    if not runs:
        raise RuntimeError(
            f"dagster made no run of {job}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    failures = {
        str(record.event_log_entry.dagster_event.step_key): record.event_log_entry.dagster_event
        for record in instance.get_records_for_run(
            runs[0].run_id, of_type=dg.DagsterEventType.STEP_FAILURE
        ).records
        if record.event_log_entry.dagster_event is not None
    }
    return FinishedRun(runs[0], failures)


class _RunsACommand:
    """Unpickling an instance runs a shell command: what a poisoned model file does."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def poisoned_pickle() -> tuple[Path, Path]:
    """Write a pickle that calls ``os.system`` under a harmless name.

    Returns:
        The file, and the file it would create if anybody loaded it.
    """
    folder = get_settings().home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    proof = folder / "somebody-loaded-it"
    proof.unlink(missing_ok=True)
    file = folder / "quarterly_forecast.pkl"
    file.write_bytes(pickle.dumps({"weights": [0.1, 0.2], "meta": _RunsACommand(f"touch {proof}")}))
    return file, proof
