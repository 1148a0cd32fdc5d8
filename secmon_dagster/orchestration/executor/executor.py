"""The executor: starts each step in a box, stores what it says, names what ended it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

from dagster import DagsterEvent, Executor, InitExecutorContext, MetadataValue, executor

from secmon_dagster.errors import LimitsError
from secmon_dagster.limits.backends import Backend
from secmon_dagster.limits.capabilities import open_backend
from secmon_dagster.limits.evidence import KillReason
from secmon_dagster.limits.supervisor import Supervisor
from secmon_dagster.limits.watch import Broken, Refused, Watch
from secmon_dagster.limits.watched import Decided, Ended, Frame, Started, Warned
from secmon_dagster.limits.zygote import Zygote
from secmon_dagster.orchestration.dagster_internals import (
    ActiveExecution,
    DagsterExecutionInterruptedError,
    EngineEventData,
    ErrorSource,
    ExecutionPlan,
    ExecutionStep,
    InstanceConcurrencyContext,
    PlanOrchestrationContext,
    RetryMode,
    SerializableErrorInfo,
    StepDependencyConfig,
    kept_connections,
    multiple_process_executor_requirements,
)
from secmon_dagster.orchestration.executor.config import CONFIG_SCHEMA, ExecutorConfig
from secmon_dagster.orchestration.executor.declared import check_plan, limits_of
from secmon_dagster.orchestration.executor.events import (
    crash_error,
    limit_failure,
    plain_failure,
    usage_event,
    usage_metadata,
    violation_event,
)
from secmon_dagster.orchestration.executor.messages import BadMessage, Kind, read_message
from secmon_dagster.orchestration.executor.run_spec import RunSpec, StepSpec
from secmon_dagster.orchestration.executor.steps import ForgedEvent, RunningStep
from secmon_dagster.orchestration.executor.zygote_main import start_zygote

_LONGEST_WAIT = 1.0
"""Seconds after which pools and retries are looked at again even if nothing happens."""


@executor(
    name="resource_limit_executor",
    config_schema=CONFIG_SCHEMA,
    requirements=multiple_process_executor_requirements(),
)
def resource_limit_executor(init_context: InitExecutorContext) -> Executor:
    """Runs each step in a process of its own that can't use more than it declared.

    A job that runs under ``multiprocess_executor`` runs under this one unchanged. Ops declare
    limits with ``tags=limits(...)``; see ``docs/limits.md``.
    """
    return ResourceLimitExecutor(ExecutorConfig.read(init_context.executor_config))


class ResourceLimitExecutor(Executor):
    """One per run."""

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config

    @property
    def retries(self) -> RetryMode:
        return self._config.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self._config.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        config = self._config
        check_plan(
            execution_plan.get_all_steps_in_topo_order(), plan_context.dagster_run.tags, config
        )
        backend = open_backend(config.backend, require_hard_limits=config.require_hard_limits)
        with ExitStack() as stack:
            stack.callback(backend.close)
            stack.enter_context(kept_connections(plan_context.instance))
            yield DagsterEvent.engine_event(
                plan_context,
                f"Executing steps in boxes (enforcement: {backend.name}): parent process"
                f" (pid: {os.getpid()})",
                EngineEventData.multiprocess(
                    os.getpid(), step_keys_to_execute=execution_plan.step_keys_to_execute
                ),
            )
            watch = stack.enter_context(
                Watch(lambda: self._supervisor(plan_context, execution_plan, backend))
            )
            watch.warm()
            concurrency = stack.enter_context(
                InstanceConcurrencyContext(plan_context.instance, plan_context.dagster_run)
            )
            active = stack.enter_context(
                ActiveExecution(
                    execution_plan,
                    retry_mode=config.retries,
                    max_concurrent=config.max_concurrent,
                    tag_concurrency_limits=config.tag_concurrency_limits,
                    instance_concurrency_context=concurrency,
                    step_dependency_config=config.step_dependency_config,
                )
            )
            yield from _Loop(plan_context, config, active, watch, backend.name).run()
        yield DagsterEvent.engine_event(
            plan_context,
            f"All steps are over, parent process exiting (pid: {os.getpid()})",
            EngineEventData.multiprocess(os.getpid()),
        )

    def _supervisor(
        self,
        plan_context: PlanOrchestrationContext,
        execution_plan: ExecutionPlan,
        backend: Backend,
    ) -> Supervisor:
        config = self._config
        spec = RunSpec(
            job=plan_context.reconstructable_job,
            run=plan_context.dagster_run,
            run_config=dict(plan_context.run_config),
            instance=plan_context.instance.get_ref(),
            retries=config.retries,
            repository_load_data=execution_plan.repository_load_data,
            preload_modules=config.preload_modules,
            capture_compute_logs=config.capture_compute_logs,
            folders=tuple(str(folder) for folder in backend.folders()),
            guard=backend.name == "sampled",
        )

        def new_zygote() -> Zygote:
            return start_zygote(spec)

        return Supervisor(
            backend, new_zygote, grace=config.grace, monitor_every=config.monitor_interval
        )


class _Loop:
    """One run of :meth:`ResourceLimitExecutor.execute`."""

    def __init__(
        self,
        plan_context: PlanOrchestrationContext,
        config: ExecutorConfig,
        active: ActiveExecution,
        watch: Watch,
        enforcement: str,
    ) -> None:
        self._context = plan_context
        self._enforcement = enforcement
        self._config = config
        self._active = active
        self._watch = watch
        self._running: dict[str, RunningStep] = {}
        self._waiting: ExecutionStep | None = None
        self._stopping = False

    def run(self) -> Iterator[DagsterEvent]:
        while (not self._stopping and not self._active.is_complete) or self._running:
            if self._active.check_for_interrupts():
                yield from self._interrupt()
            if not self._stopping:
                yield from self._start_steps()
            for notice in self._watch.take(self._patience()):
                yield from self._handle(notice)
            yield from self._active.plan_events_iterator(self._context)
        if self._stopping:
            yield DagsterEvent.engine_event(
                self._context, "Interrupted all active steps", EngineEventData()
            )
            raise DagsterExecutionInterruptedError()

    def _patience(self) -> float:
        if self._active.is_complete and not self._running:
            return 0.0
        until_retry = self._active.sleep_interval()
        return min(_LONGEST_WAIT, until_retry) if until_retry > 0 else _LONGEST_WAIT

    # --- starting ---------------------------------------------------------------------------------

    def _start_steps(self) -> Iterator[DagsterEvent]:
        while True:
            step = self._waiting
            if step is None:
                free = self._config.max_concurrent - len(self._running)
                vended = self._active.get_steps_to_execute(limit=min(free, 1))
                yield from self._active.concurrency_event_iterator(self._context)
                if not vended:
                    return
                step = vended[0]
            context = self._context.for_step(step)
            limits = limits_of(
                step.node_handle.name, step.tags, self._context.dagster_run.tags, self._config
            )
            used = sum(each.limits.max_memory_mb or 0 for each in self._running.values())
            if used and used + (limits.max_memory_mb or 0) > self._config.memory_budget_mb:
                # First come, first served: a large step isn't passed for ever by small ones.
                self._waiting = step
                return
            self._waiting = None
            self._running[step.key] = RunningStep(
                context=context, limits=limits, run_id=self._context.run_id
            )
            yield DagsterEvent.step_worker_starting(
                context,
                f'Launching boxed process for "{step.key}".',
                metadata={
                    "enforcement": self._enforcement,
                    "limits": MetadataValue.json(limits.to_json()),
                },
            )
            spec = StepSpec(step.key, self._active.get_known_state())
            self._watch.start(step.key, spec.to_json(), limits)

    def _interrupt(self) -> Iterator[DagsterEvent]:
        yield DagsterEvent.engine_event(
            self._context,
            "Received termination signal - forwarding to active steps",
            EngineEventData.interrupted(list(self._running)),
        )
        self._stopping = True
        self._active.mark_interrupted()
        for key in self._running:
            self._watch.end(key, KillReason.INTERRUPT)

    # --- what happened ----------------------------------------------------------------------------

    def _handle(
        self, notice: Started | Frame | Warned | Decided | Ended | Refused | Broken
    ) -> Iterator[DagsterEvent]:
        if isinstance(notice, Broken):
            raise LimitsError("the supervisor of the steps failed") from notice.error
        step = self._running.get(notice.key)
        if step is None:
            return
        if isinstance(notice, Frame):
            yield from self._message(step, notice.payload)
            self._watch.consumed(notice.key, len(notice.payload))
        elif isinstance(notice, Started):
            step.pid = notice.pid
        elif isinstance(notice, Warned):
            step.warnings.append(notice.violation)
            yield violation_event(step.context, notice.violation)
        elif isinstance(notice, Refused):
            yield from self._over(step, self._refused(step, notice))
        elif isinstance(notice, Ended):
            yield from self._over(step, self._ended(step, notice))

    def _over(self, step: RunningStep, events: Iterator[DagsterEvent]) -> Iterator[DagsterEvent]:
        yield from events
        del self._running[step.key]
        self._active.verify_complete(self._context, step.key)

    def _message(self, step: RunningStep, payload: bytes) -> Iterator[DagsterEvent]:
        try:
            message = read_message(payload)
            if message.kind is Kind.DONE:
                step.done = True
            elif message.error is not None:
                step.error = message.error
            elif message.entry is not None:
                for entry in step.take(message.entry):
                    self._context.instance.handle_new_event(entry)
                    if entry.dagster_event is not None:
                        yield from self._progress(step, entry.dagster_event)
        except (BadMessage, ForgedEvent) as refused:
            self._watch.end(step.key, KillReason.PROTOCOL, str(refused))

    def _progress(self, step: RunningStep, event: DagsterEvent) -> Iterator[DagsterEvent]:
        yield event
        if event.step_key is None:
            return
        self._active.handle_event(event)
        if event.is_resource_init_failure and event.engine_event_data.error is not None:
            failure = plain_failure(
                step.context, self._active.get_known_state(), event.engine_event_data.error
            )
            yield failure
            self._active.handle_event(failure)

    def _refused(self, step: RunningStep, notice: Refused) -> Iterator[DagsterEvent]:
        error = SerializableErrorInfo(
            message=f"Step {step.key} was not started: {notice.error.diagnostics()}\n",
            stack=[],
            cls_name=type(notice.error).__name__,
        )
        yield from self._conclude(
            plain_failure(step.context, self._active.get_known_state(), error, may_retry=False)
        )

    def _ended(self, step: RunningStep, ended: Ended) -> Iterator[DagsterEvent]:
        yield from self._outcome(step, ended)
        yield usage_event(step.context, usage_metadata(ended.usage, ended.enforcement))

    def _outcome(self, step: RunningStep, ended: Ended) -> Iterator[DagsterEvent]:
        known_state = self._active.get_known_state()
        violation = ended.violation
        crashed = ended.signal is not None or bool(ended.exit_code) or not step.done
        if violation is not None:
            yield violation_event(step.context, violation)
            yield from self._conclude(limit_failure(step.context, known_state, violation))
        elif step.verdict is not None and not (crashed and _claims_success(step)):
            for entry in step.held:
                self._context.instance.handle_new_event(entry)
                if entry.dagster_event is not None:
                    yield from self._progress(step, entry.dagster_event)
        elif step.key not in self._in_flight():
            # A resource that failed to start has already ended the step.
            return
        elif ended.reason is KillReason.INTERRUPT:
            error = step.error or SerializableErrorInfo(
                message=f"Step {step.key} was interrupted.\n",
                stack=[],
                cls_name="DagsterExecutionInterruptedError",
            )
            yield from self._conclude(
                plain_failure(
                    step.context,
                    known_state,
                    error,
                    source=ErrorSource.INTERRUPT,
                    may_retry=False,
                )
            )
        else:
            error = step.error or crash_error(step.key, ended)
            yield DagsterEvent.engine_event(
                step.context, error.message, EngineEventData.engine_error(error)
            )
            yield from self._conclude(plain_failure(step.context, known_state, error))

    def _in_flight(self) -> set[str]:
        return self._active._in_flight

    def _conclude(self, event: DagsterEvent) -> Iterator[DagsterEvent]:
        yield event
        self._active.handle_event(event)


def _claims_success(step: RunningStep) -> bool:
    entry = step.verdict
    event = None if entry is None else entry.dagster_event
    return event is not None and event.is_step_success
