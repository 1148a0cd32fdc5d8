"""What the zygote must know of a run, and what a step must know beyond that, as JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterEvent

from secmon_dagster.orchestration.dagster_internals import (
    DagsterRun,
    InstanceRef,
    KnownExecutionState,
    ReconstructableJob,
    RepositoryLoadData,
    RetryMode,
    deserialize_value,
    serialize_value,
)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything about a run that its steps have in common."""

    job: ReconstructableJob
    run: DagsterRun
    run_config: dict[str, Any]
    instance: InstanceRef
    retries: RetryMode
    repository_load_data: RepositoryLoadData | None
    preload_modules: tuple[str, ...] = ()
    capture_compute_logs: bool = True
    folders: tuple[str, ...] = ()
    guard: bool = False
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    working_directory: str = field(default_factory=os.getcwd)

    def to_json(self) -> bytes:
        load_data = self.repository_load_data
        return json.dumps(
            {
                "job": serialize_value(self.job),
                "run": serialize_value(self.run),
                "run_config": self.run_config,
                "instance": serialize_value(self.instance),
                "retries": self.retries.value,
                "repository_load_data": None if load_data is None else serialize_value(load_data),
                "preload_modules": self.preload_modules,
                "capture_compute_logs": self.capture_compute_logs,
                "folders": self.folders,
                "guard": self.guard,
                "path": self.path,
                "working_directory": self.working_directory,
            }
        ).encode()

    @classmethod
    def from_json(cls, document: bytes) -> RunSpec:
        fields = json.loads(document)
        load_data = fields["repository_load_data"]
        return cls(
            job=deserialize_value(fields["job"], ReconstructableJob),
            run=deserialize_value(fields["run"], DagsterRun),
            run_config=fields["run_config"],
            instance=deserialize_value(fields["instance"], InstanceRef),
            retries=RetryMode(fields["retries"]),
            repository_load_data=(
                None if load_data is None else deserialize_value(load_data, RepositoryLoadData)
            ),
            preload_modules=tuple(fields["preload_modules"]),
            capture_compute_logs=fields["capture_compute_logs"],
            folders=tuple(fields["folders"]),
            guard=fields["guard"],
            path=tuple(fields["path"]),
            working_directory=fields["working_directory"],
        )


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One attempt of one step."""

    step_key: str
    known_state: KnownExecutionState
    failure: DagsterEvent | None = None
    """If set, don't execute the step but run its hooks for this failure of its process."""
    violation: dict[str, Any] | None = None
    isolated: bool = False
    """Whether the step's layer denies it the network, and with it the secrets of the run."""

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "step_key": self.step_key,
                "known_state": serialize_value(self.known_state),
                "failure": None if self.failure is None else serialize_value(self.failure),
                "violation": self.violation,
                "isolated": self.isolated,
            }
        ).encode()

    @classmethod
    def from_json(cls, document: bytes) -> StepSpec:
        fields = json.loads(document)
        return cls(
            step_key=fields["step_key"],
            known_state=deserialize_value(fields["known_state"], KnownExecutionState),
            failure=(
                None
                if fields["failure"] is None
                else deserialize_value(fields["failure"], DagsterEvent)
            ),
            violation=fields["violation"],
            isolated=fields["isolated"],
        )
