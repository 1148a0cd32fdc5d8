"""One run on PostgreSQL, and everything that was written down about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_graphql.test.utils import execute_dagster_graphql
from finished import Run

from secmon_dagster.audit import get_audit_logger
from secmon_dagster.limits.backends.hierarchy import find_hierarchies
from secmon_dagster.limits.proc import children_of
from secmon_dagster.settings import get_settings

# What the page of a run asks for, as far as failures of steps are concerned.
SHOWN_BY_THE_UI = """
query ($runId: ID!) {
  logsForRun(runId: $runId, limit: 10000) {
    ... on EventConnection {
      events {
        ... on ExecutionStepFailureEvent {
          stepKey
          failureMetadata {
            label
            metadataEntries {
              label
              ... on TextMetadataEntry { text }
              ... on FloatMetadataEntry { floatValue }
              ... on IntMetadataEntry { intRepr }
              ... on JsonMetadataEntry { jsonString }
            }
          }
        }
      }
    }
  }
}
"""


@dataclass(frozen=True)
class Recorded:
    """A run, and what is said of it elsewhere; keys are step keys."""

    run: Run
    backend: str
    entries: list[dict[str, Any]]
    usage: dict[str, dict[str, Any]]
    shown: dict[str, dict[str, Any]]
    chain_is_valid: bool
    groups_left: list[Path]
    children_left: list[int]


@contextmanager
def recorded(
    job: Any, config: Mapping[str, Any], database: Any, folder: Path
) -> Iterator[Recorded]:
    """Execute a job as the user ada, with audit required, and collect what was written."""
    get_settings.cache_clear()
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    children = set(children_of(os.getpid()))
    with DagsterInstance.local_temp(str(folder), overrides=overrides) as instance:
        result = dg.execute_job(
            dg.reconstructable(job),
            instance=instance,
            run_config={"execution": {"config": dict(config)}},
            tags={"secmon/user": "ada"},
        )
        ours = f"secmon-{os.getpid()}-*"
        found = find_hierarchies()
        bases = [*found.version1.values(), *([found.version2] if found.version2 else [])]
        yield Recorded(
            run=Run(result, instance),
            backend=config.get("backend", "auto"),
            entries=_rows(
                database,
                "SELECT * FROM secmon.dag_audit_logs WHERE execution_id = %s ORDER BY timestamp",
                result.run_id,
            ),
            usage={
                row["step_key"]: row
                for row in _rows(
                    database, "SELECT * FROM secmon.step_usage WHERE run_id = %s", result.run_id
                )
            },
            shown=_shown(instance, result.run_id),
            chain_is_valid=get_audit_logger().verify_chain()["valid"],
            groups_left=[left for base in bases for left in base.glob(ours)],
            children_left=sorted(set(children_of(os.getpid())) - children),
        )


def _rows(database: Any, query: str, run_id: str) -> list[dict[str, Any]]:
    with database.admin() as connection:
        cursor = connection.execute(query, [run_id])
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def _shown(instance: DagsterInstance, run_id: str) -> dict[str, dict[str, Any]]:
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as process:
        answer = execute_dagster_graphql(
            process.create_request_context(), SHOWN_BY_THE_UI, {"runId": run_id}
        )
    failures = [each for each in answer.data["logsForRun"]["events"] if each.get("failureMetadata")]
    return {
        each["stepKey"]: {
            "label": each["failureMetadata"]["label"],
            "metadata": {
                entry["label"]: _value(entry)
                for entry in each["failureMetadata"]["metadataEntries"]
            },
        }
        for each in failures
    }


def _value(entry: Mapping[str, Any]) -> Any:
    if "jsonString" in entry:
        return json.loads(entry["jsonString"])
    if "intRepr" in entry:
        return int(entry["intRepr"])
    return entry["floatValue"] if "floatValue" in entry else entry["text"]
