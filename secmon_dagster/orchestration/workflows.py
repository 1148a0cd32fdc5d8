"""Workflows as Dagster runs: launched once a node, linked by tags, driven by the daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import dagster as dg
import psutil

from secmon_dagster.limits import LAYER_TAG
from secmon_dagster.orchestration.run_queue import rules_of
from secmon_dagster.posture import Session
from secmon_dagster.posture.executions import (
    EXECUTION_TAG,
    INSTANCE_TAG,
    NODE_TAG,
    PARENT_RUN_TAG,
    advance,
    open_executions,
)
from secmon_dagster.posture.scanning import redact
from secmon_dagster.posture.workflows import Node, NodeStatus, RunReport

# A node's run is never retried by Dagster: what beneath it saw a failure would see it undone.
_NO_RETRY = {"dagster/max_retries": "0"}
CHILD_RUN_TAG = "secmon/child-run"
_NUMBERS = (dg.IntMetadataValue, dg.FloatMetadataValue)


def run_of_node(instance: dg.DagsterInstance, node_id: str) -> dg.DagsterRun | None:
    """The run that carries the node's id; None before it is created."""
    runs = instance.get_runs(dg.RunsFilter(tags={NODE_TAG: node_id}), limit=1)
    return runs[0] if runs else None


def report_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RunReport:
    """How a run stands, with the numbers it reported once it has ended."""
    if not run.is_finished:
        return RunReport(run.run_id, NodeStatus.LAUNCHED, None, {})
    if run.is_success:
        return RunReport(run.run_id, NodeStatus.SUCCESS, None, metrics_of(instance, run.run_id))
    return RunReport(
        run.run_id,
        NodeStatus.FAILED,
        f"its run ended {run.status.value.lower()}",
        metrics_of(instance, run.run_id),
    )


def metrics_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, float]:
    """Every number in the metadata of a run's outputs, materializations and observations.

    A name that several of them use has the last one's value; ``duration_ms`` is the run's own.
    """
    metrics: dict[str, float] = {}
    kinds = {
        dg.DagsterEventType.STEP_OUTPUT,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_OBSERVATION,
    }
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        data = event.event_specific_data
        metadata = getattr(data, "metadata", None)
        for holder in ("materialization", "asset_observation"):
            metadata = getattr(getattr(data, holder, None), "metadata", metadata)
        for name, value in (metadata or {}).items():
            number = value.value if isinstance(value, _NUMBERS) else None
            # What no database keeps (NaN, or beyond a double) is no number to compare with.
            if number is not None and abs(number) <= sys.float_info.max:
                metrics[name] = float(number)
    stats = instance.get_run_stats(run_id)
    if stats.start_time is not None and stats.end_time is not None:
        metrics["duration_ms"] = (stats.end_time - stats.start_time) * 1000
    return metrics


class DaemonRuns:
    """Nodes become run requests of the sensor that drives executions.

    The node's id is the run key, so the daemon starts one run for it however often it is asked,
    also after a restart in the middle of a tick.

    Args:
        jobs: the jobs there are, by name.
    """

    def __init__(
        self, instance: dg.DagsterInstance, jobs: Mapping[str, Callable[[], dg.JobDefinition]]
    ) -> None:
        self._instance = instance
        self._jobs = jobs
        self.requests: list[dg.RunRequest] = []

    def launch(self, node: Node, tags: Mapping[str, str]) -> str | None:
        """Ask for the node's run."""
        if node.job_name not in self._jobs:
            return f"there is no job {node.job_name!r} in this code location"
        if node.run_id is None and run_of_node(self._instance, node.node_id) is not None:
            return None
        # The daemon would fail the whole tick over it, and everyone's nodes with this one.
        unfit = _unfit(self._jobs[node.job_name](), node.run_config)
        if unfit is not None:
            return unfit
        self.requests.append(
            dg.RunRequest(
                run_key=node.node_id,
                job_name=node.job_name,
                run_config=node.run_config,
                tags={**tags, **_NO_RETRY},
            )
        )
        return None

    def report(self, node_id: str) -> RunReport | None:
        """See :func:`report_of`."""
        run = run_of_node(self._instance, node_id)
        if run is None:
            return None
        _link_to_parent(self._instance, run)
        if _lost_its_process(self._instance, run):
            self._instance.report_run_failed(run, "The process of the run died without a word.")
            run = run_of_node(self._instance, node_id) or run
        return report_of(self._instance, run)


class LocalRuns:
    """Nodes run in this process, one after another, each under its job's executor.

    For scripts and tests; a node whose process died is reported failed, not run again.

    Args:
        module: where the definitions are, such as ``secmon_dagster.definitions``.
    """

    def __init__(self, instance: dg.DagsterInstance, module: str) -> None:
        self._instance = instance
        self._module = module

    def launch(self, node: Node, tags: Mapping[str, str]) -> str | None:
        """Run the node to its end."""
        if run_of_node(self._instance, node.node_id) is not None:
            return None
        try:
            unfit = _unfit(job_in(self._module, node.job_name), node.run_config)
        except dg.DagsterInvariantViolationError:
            return f"there is no job {node.job_name!r} in {self._module}"
        if unfit is not None:
            return unfit
        layer = {}
        if INSTANCE_TAG in tags:
            # What the run queue does, which these runs pass by.
            layer[LAYER_TAG], held = rules_of(Session.open(), tags[INSTANCE_TAG])
            if held:
                return "its layer asks for a second person's approval; only the daemon waits for it"
        job = dg.build_reconstructable_job(
            "secmon_dagster.orchestration.workflows",
            "job_in",
            reconstructable_kwargs={"module": self._module, "name": node.job_name},
        )
        dg.execute_job(
            job,
            instance=self._instance,
            run_config=node.run_config,
            tags={**tags, **layer, **_NO_RETRY},
            raise_on_error=False,
        )
        return None

    def report(self, node_id: str) -> RunReport | None:
        """How the node's run ended."""
        run = run_of_node(self._instance, node_id)
        if run is None:
            return None
        _link_to_parent(self._instance, run)
        if not run.is_finished:
            return RunReport(run.run_id, NodeStatus.FAILED, "the process that ran it ended", {})
        return report_of(self._instance, run)


def job_in(module: str, name: str) -> dg.JobDefinition:
    """The job called ``name`` in the definitions of ``module``.

    Raises:
        DagsterInvariantViolationError: there is none.
    """
    from importlib import import_module

    found = next(
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, dg.Definitions) or callable(getattr(value, "load_fn", None))
    )
    definitions = found if isinstance(found, dg.Definitions) else found.load_fn()
    return definitions.resolve_job_def(name)


def workflow_sensor(jobs: Iterable[Any]) -> dg.SensorDefinition:
    """The sensor that drives executions; it may launch each of ``jobs``."""
    targets = list(jobs)

    @dg.sensor(
        name="workflow_executions",
        jobs=targets,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Takes executions of agent workflows from step to step.",
    )
    def workflow_executions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        session = Session.open(actor="workflow_executions")
        location = context.repository_def
        assert location is not None
        there = {job.name: partial(location.get_job, job.name) for job in targets}
        runs = DaemonRuns(context.instance, there)
        for execution_id in open_executions(session):
            try:
                advance(session, execution_id, runs)
            except Exception:
                # Every other tenant's execution goes on; this one is tried again.
                context.log.exception("execution %s can't be advanced", execution_id)
        return dg.SensorResult(run_requests=runs.requests)

    return workflow_executions


def _unfit(job: dg.JobDefinition, run_config: Mapping[str, Any]) -> str | None:
    """Why the job doesn't take this run config; None if it does."""
    try:
        dg.validate_run_config(job, dict(run_config))
    except dg.DagsterInvalidConfigError as invalid:
        said = redact("; ".join(invalid.error_messages))
        return f"its run config does not fit job {job.name!r}: {said}"[:1000]
    return None


def _lost_its_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run is under way for Dagster but its process is gone, as after a power failure.

    Dagster notices by itself when only the process dies, but not when the code server that started
    it dies too. Run processes of the default launcher live beside the code server, and so beside
    the sensor that asks; other launchers have health checks of their own.
    """
    if run.is_finished or not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return False
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = None if event is None else event.engine_event_data.metadata.get("pid")
        if pid is None:
            continue
        try:
            # A process younger than the event only has the number of the one that died.
            alive = psutil.Process(int(str(pid.value))).create_time() <= entry.timestamp
        except (psutil.NoSuchProcess, ValueError):
            alive = False
        if alive:
            return False
        fresh = instance.get_run_by_id(run.run_id)
        return fresh is not None and not fresh.is_finished
    return False


def _link_to_parent(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """The child names its parent from the start; now the parent names the child too."""
    parent_id = run.tags.get(PARENT_RUN_TAG)
    if parent_id is None:
        return
    parent = instance.get_run_by_id(parent_id)
    tag = f"{CHILD_RUN_TAG}/{run.run_id[:8]}"
    if parent is not None and tag not in parent.tags:
        instance.add_run_tags(parent_id, {tag: run.run_id})


__all__ = [
    "CHILD_RUN_TAG",
    "EXECUTION_TAG",
    "DaemonRuns",
    "LocalRuns",
    "job_in",
    "metrics_of",
    "report_of",
    "run_of_node",
    "workflow_sensor",
]
