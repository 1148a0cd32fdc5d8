"""The only place that imports Dagster's private names; ``tests`` check each one's signature.

Dagster is pinned to one minor version for their sake.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy.event
import sqlalchemy.exc
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import EngineEventData
from dagster._core.events.log import EventLogEntry
from dagster._core.execution import compute_logs
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster._core.execution.context.system import IStepContext, PlanOrchestrationContext
from dagster._core.execution.context_creation_job import (
    create_context_free_log_manager,
    scoped_job_context,
)
from dagster._core.execution.plan import execute_plan
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.handle import ResolvedFromDynamicStepHandle
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import (
    ErrorSource,
    StepFailureData,
    StepRetryData,
    UserFailureData,
)
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.plan.step import ExecutionStep, IExecutionStep
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import (
    StepDependencyConfig,
    get_step_dependency_config_field,
)
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepHandlerContext
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage import local_compute_log_manager
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import deserialize_value, serialize_value
from dagster._utils import ensure_file, touch_file
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.interrupts import capture_interrupts
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.error import SerializableErrorInfo

__all__ = [
    "ActiveExecution",
    "CheckStepHealthResult",
    "DagsterExecutionInterruptedError",
    "DagsterRun",
    "EngineEventData",
    "ErrorSource",
    "EventLogEntry",
    "ExecutionPlan",
    "ExecutionStep",
    "IExecutionStep",
    "IStepContext",
    "InMemoryJob",
    "InstanceConcurrencyContext",
    "InstanceRef",
    "KnownExecutionState",
    "PlanOrchestrationContext",
    "RawMetadataValue",
    "ReconstructableJob",
    "RepositoryLoadData",
    "RetryMode",
    "SerializableErrorInfo",
    "StepDependencyConfig",
    "StepFailureData",
    "StepHandlerContext",
    "StepOutputHandle",
    "StepRetryData",
    "UserFailureData",
    "capture_interrupts",
    "code_server_answers",
    "complete_compute_logs",
    "create_context_free_log_manager",
    "create_execution_plan",
    "deserialize_value",
    "divert_events",
    "execute_plan_iterator",
    "get_retries_config",
    "get_step_dependency_config_field",
    "get_tag_concurrency_limits_config",
    "has_hooks",
    "held_events",
    "is_trouble_of_the_database",
    "kept_connections",
    "load_error_of_code_server",
    "multiple_process_executor_requirements",
    "run_hooks",
    "run_hooks_unless",
    "serializable_error_info_from_exc_info",
    "serialize_value",
    "state_for",
    "store_events",
    "write_logs_to_files_only",
]

_POOL_RECYCLE_SECONDS = 600
_POOL_OVERFLOW = 4


def divert_events(instance: DagsterInstance, store: Callable[[EventLogEntry], object]) -> None:
    """From now on ``instance`` hands new events to ``store`` instead of writing them."""

    def handle_new_event(event: EventLogEntry, *, batch_metadata: object = None) -> None:
        del batch_metadata  # the other end decides how it writes
        store(event)

    instance.handle_new_event = handle_new_event  # type: ignore[method-assign]


@contextmanager
def held_events(instance: DagsterInstance) -> Iterator[list[EventLogEntry]]:
    """Collect what is logged to ``instance`` meanwhile instead of writing it."""
    held: list[EventLogEntry] = []
    before = vars(instance).get("handle_new_event")
    divert_events(instance, held.append)
    try:
        yield held
    finally:
        if before is None:
            del instance.handle_new_event
        else:
            instance.handle_new_event = before  # type: ignore[method-assign]


@contextmanager
def kept_connections(instance: DagsterInstance) -> Iterator[None]:
    """Let the storages of ``instance`` keep their database connections for a while.

    By default Dagster connects anew for each event (7.3 ms on PostgreSQL, against 0.9 ms). Storages
    without an SQL engine of their own, and SQLite's, are left alone.
    """
    with ExitStack() as stack:
        for storage in (instance.event_log_storage, instance.run_storage):
            inner = getattr(storage, "_storage", storage)
            for each in {id(inner): inner, id(storage): storage}.values():
                engine = getattr(each, "_engine", None)
                if engine is None or engine.dialect.name == "sqlite":
                    continue
                each.optimize_for_webserver(
                    statement_timeout=0,
                    pool_recycle=_POOL_RECYCLE_SECONDS,
                    max_overflow=_POOL_OVERFLOW,
                )
                stack.callback(_put_back, each, engine)
                if engine.dialect.name == "postgresql":
                    sqlalchemy.event.listen(vars(each)["_engine"], "checkout", _not_if_closed)
        yield


def _not_if_closed(connection: Any, record: Any, _: object) -> None:
    """Have the pool connect anew where the server has hung up: then there is something to read."""
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLIN)
    if record.info.get("was_used") and watch.poll(0):
        raise sqlalchemy.exc.DisconnectionError
    record.info["was_used"] = True


def _put_back(storage: Any, engine: Any) -> None:
    pooled, storage._engine = storage._engine, engine
    pooled.dispose()


ASSET_EVENTS = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
}
"""What a step itself may ask the instance for once it is stored."""


def store_events(instance: DagsterInstance, entries: Sequence[EventLogEntry]) -> None:
    """Store events of steps in the order they are given.

    PostgreSQL takes them in one statement, for a third of what each alone costs. Events about
    assets, which go into further tables, take Dagster's own way, and so do all in other storages.
    """
    storage: Any = instance.event_log_storage
    storage = getattr(storage, "_storage", storage)
    if (
        len(entries) < 2
        or type(storage) is not PostgresEventLogStorage
        or not all(map(_is_a_plain_row, entries))
    ):
        for entry in entries:
            instance.handle_new_event(entry)
        return
    rows = [storage._event_to_row(entry) for entry in entries]
    with storage._connect() as connection:
        connection.execute(SqlEventLogStorageTable.insert(), rows)
    for entry in entries:
        for subscriber in instance._subscribers[entry.run_id]:
            subscriber(entry)


def is_trouble_of_the_database(error: Exception) -> bool:
    """Whether it isn't the event's fault that it could not be stored."""
    return isinstance(
        error,
        DagsterPostgresException
        | sqlalchemy.exc.OperationalError
        | sqlalchemy.exc.InterfaceError
        | sqlalchemy.exc.TimeoutError,
    )


def _is_a_plain_row(entry: EventLogEntry) -> bool:
    event = entry.dagster_event
    return event is None or (event.asset_key is None and event.event_type not in ASSET_EVENTS)


def state_for(
    step: ExecutionStep, plan: ExecutionPlan, known: KnownExecutionState
) -> KnownExecutionState:
    """What of a run's state one step's execution asks for.

    The whole grows with the run: what each step has put out, and all keys of dynamic outputs, for
    each of which a plan holds a step.
    """
    wanted = {
        handle for each in step.step_inputs for handle in each.get_step_output_handle_dependencies()
    }
    mappings = dict(known.dynamic_mappings)
    handle = step.handle
    if isinstance(handle, ResolvedFromDynamicStepHandle) and all(
        each.mapping_key in (None, handle.mapping_key) for each in wanted
    ):
        mapped: Any = plan.get_step(handle.unresolved_form)
        origin, output = mapped.resolved_by_step_key, mapped.resolved_by_output_name
        if handle.mapping_key in (mappings.get(origin, {}).get(output) or ()):
            mappings[origin] = {**mappings[origin], output: [handle.mapping_key]}
    return known._replace(dynamic_mappings=mappings, ready_outputs=known.ready_outputs & wanted)


def run_hooks_unless(ended: Callable[[], bool]) -> None:
    """Have steps of this process skip their hooks once ``ended`` says so.

    A step that is being ended at a limit sees an interrupt; its failure hooks would be told of that
    instead of the limit. They run afterwards, in a process of their own.
    """
    stock = execute_plan._trigger_hook

    def trigger_hook(step_context: Any, events: Sequence[DagsterEvent]) -> Iterator[DagsterEvent]:
        if not ended():
            yield from stock(step_context, events)

    setattr(execute_plan, "_trigger_hook", trigger_hook)  # noqa: B010


def run_hooks(
    plan: ExecutionPlan,
    job: ReconstructableJob,
    run: DagsterRun,
    run_config: dict[str, Any],
    instance: DagsterInstance,
    failure: DagsterEvent,
    error: BaseException,
) -> None:
    """Run the hooks of the plan's one step for a failure that its own process didn't live to see.

    ``error`` is what hooks find as ``context.op_exception``.
    """
    [step] = plan.get_steps_to_execute_in_topo_order()
    with scoped_job_context(plan, job, run_config, run, instance) as job_context:
        step_context = job_context.for_step(step, plan.known_state)
        step_context.capture_step_exception(error)
        for _ in execute_plan._trigger_hook(step_context, [failure]):
            continue


def has_hooks(step_context: IStepContext) -> bool:
    """Whether the job has hooks for this step."""
    definition = step_context.job.get_definition()
    return bool(definition.get_all_hooks_for_handle(step_context.node_handle))


def complete_compute_logs(instance: DagsterInstance, run_id: str, file_key: str) -> None:
    """Mark the logs of a process that was ended as complete, so that readers stop waiting."""
    manager = instance.compute_log_manager
    key = manager.build_log_key_for_run(run_id, file_key)
    local = getattr(manager, "local_manager", manager)
    if isinstance(local, local_compute_log_manager.LocalComputeLogManager):
        touch_file(local.complete_artifact_path(key))
        upload = getattr(manager, "_on_capture_complete", None)
        if upload is not None:
            upload(key)


def write_logs_to_files_only() -> None:
    """Capture stdout and stderr straight into the compute-log files, without watcher processes.

    Dagster starts two ``tail`` and two watchers a step, to copy the files' contents back to the
    terminal: 40 ms, and four strangers in the step's box. Applies to this process and its forks.
    """

    @contextmanager
    def mirror_stream_to_file(stream: Any, filepath: str) -> Iterator[Sequence[int | None]]:
        ensure_file(filepath)
        with compute_logs.redirect_to_file(stream, filepath):
            yield (None, None)

    setattr(local_compute_log_manager, "mirror_stream_to_file", mirror_stream_to_file)  # noqa: B010


def code_server_answers(socket_path: Path) -> bool:
    """Whether a code server serves at this Unix socket."""
    from dagster._grpc.client import DagsterGrpcClient  # only those that start one wait for it

    return bool(DagsterGrpcClient(socket=str(socket_path)).health_check_query() == "SERVING")


def load_error_of_code_server(socket_path: Path) -> str | None:
    """Why a code server could not load its definitions, as the innermost cause says it."""
    from dagster._grpc.client import DagsterGrpcClient

    answer = deserialize_value(DagsterGrpcClient(socket=str(socket_path)).list_repositories())
    if not isinstance(answer, SerializableErrorInfo):
        return None
    while answer.cause is not None:
        answer = answer.cause
    return answer.message.strip()
