"""One run: vend steps, start them in boxes, store what they say, conclude each from evidence."""

from __future__ import annotations

from collections.abc import Iterator

from dagster import DagsterEvent, MetadataValue

from secmon_dagster.errors import AuditError, LimitsError, SecmonError
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import KillReason
from secmon_dagster.limits.violation import ResourceUsage, Violation
from secmon_dagster.limits.watch import Broken, Watch
from secmon_dagster.limits.watched import Ended, Frame, Notice, Refused, Started, Warned
from secmon_dagster.orchestration.dagster_internals import (
    ASSET_EVENTS,
    ActiveExecution,
    DagsterExecutionInterruptedError,
    EngineEventData,
    ErrorSource,
    ExecutionStep,
    PlanOrchestrationContext,
    SerializableErrorInfo,
    complete_compute_logs,
    has_hooks,
    held_events,
    state_for,
)
from secmon_dagster.orchestration.executor.batch import Batch
from secmon_dagster.orchestration.executor.books import Books
from secmon_dagster.orchestration.executor.config import ExecutorConfig
from secmon_dagster.orchestration.executor.declared import layers_of, limits_of, limits_of_hooks
from secmon_dagster.orchestration.executor.events import (
    crash_error,
    forgery,
    limit_failure,
    plain_failure,
    usage_event,
    usage_metadata,
    violation_event,
)
from secmon_dagster.orchestration.executor.messages import (
    STORED,
    BadMessage,
    Kind,
    read_message,
)
from secmon_dagster.orchestration.executor.run_spec import StepSpec
from secmon_dagster.orchestration.executor.steps import ForgedEvent, RunningStep

_ACKNOWLEDGE = 512 * 1024
"""Weight at which a step is told that what it sent was dealt with, if nothing else tells it."""

_LONGEST_WAIT = 1.0
"""Seconds after which pools and retries are looked at again even if nothing happens."""


class StepLoop:
    """The states of a run's steps; :meth:`run` yields the run's events."""

    def __init__(
        self,
        context: PlanOrchestrationContext,
        config: ExecutorConfig,
        active: ActiveExecution,
        watch: Watch,
        enforcement: str,
        books: Books,
    ) -> None:
        self._context = context
        self._config = config
        self._active = active
        self._watch = watch
        self._enforcement = enforcement
        self._books = books
        self._plan = context.plan_data.execution_plan
        self._running: dict[str, RunningStep] = {}
        self._batch = Batch(context.instance)
        self._hooks: dict[str, RunningStep] = {}
        self._waiting: ExecutionStep | None = None
        self._failed: set[str] = set()
        self._stopping = False

    def run(self) -> Iterator[DagsterEvent]:
        """Until every step is over.

        Raises:
            DagsterExecutionInterruptedError: the run was cancelled; its steps are over.
            AuditError: the audit chain can't be written and must be.
        """
        trail = self._books.trail
        trail.run_starts(self._enforcement, len(self._plan.step_dict))
        try:
            while self._busy():
                yield from self._turn()
            yield from self._store()
        finally:
            self._batch.store()
        self._books.usage.flush()
        trail.run_is_over(self._failed, cancelled=self._stopping)
        if self._stopping:
            yield DagsterEvent.engine_event(
                self._context, "Interrupted all active steps", EngineEventData()
            )
            raise DagsterExecutionInterruptedError()

    def _turn(self) -> Iterator[DagsterEvent]:
        if self._active.check_for_interrupts():
            yield from self._interrupt()
        if not self._stopping:
            yield from self._start_steps()
        notices = self._watch.take(self._patience())
        for notice in notices:
            yield from self._handle(notice)
        if self._batch.due_in() == 0:
            yield from self._store()
        elif not notices:
            self._books.usage.flush()
        yield from self._active.plan_events_iterator(self._context)

    def _busy(self) -> bool:
        going_on = not self._stopping and not self._active.is_complete
        return going_on or bool(self._running) or bool(self._hooks)

    def _patience(self) -> float:
        if not self._busy():
            return 0.0
        until_retry = self._active.sleep_interval()
        longest = min(_LONGEST_WAIT, until_retry) if until_retry > 0 else _LONGEST_WAIT
        return min(longest, self._batch.due_in())

    # --- starting ---------------------------------------------------------------------------------

    def _start_steps(self) -> Iterator[DagsterEvent]:
        while True:
            step = self._waiting
            if step is None:
                if len(self._running) >= self._config.max_concurrent:
                    return
                vended = self._active.get_steps_to_execute(limit=1)
                yield from self._active.concurrency_event_iterator(self._context)
                if not vended:
                    return
                step = vended[0]
            limits = limits_of(
                step.node_handle.name, step.tags, self._context.dagster_run.tags, self._config
            )
            used = sum(each.limits.max_memory_mb or 0 for each in self._running.values())
            if used and used + (limits.max_memory_mb or 0) > self._config.memory_budget_mb:
                # First come, first served: a large step isn't passed for ever by small ones.
                self._waiting = step
                return
            self._waiting = None
            yield from self._start(step, limits)

    def _start(self, step: ExecutionStep, limits: ResourceLimits) -> Iterator[DagsterEvent]:
        known_state = self._active.get_known_state()
        layers = layers_of(step.tags, self._context.dagster_run.tags)
        running = self._running[step.key] = RunningStep(
            context=self._context.for_step(step),
            limits=limits,
            run_id=self._context.run_id,
            attempt=known_state.get_retry_state().get_attempt_count(step.key) + 1,
            isolated=bool(layers) and limits.allow_network is False,
        )
        try:
            self._books.trail.step_starts(step.key, limits, running.attempt)
        except AuditError as closed:
            yield from self._over(running, self._refused(running, closed), None)
            return
        state = state_for(step, self._plan, known_state)
        spec = StepSpec(step.key, state, isolated=running.isolated)
        # It is on its way while its first event is stored; its own come in behind that one.
        self._watch.start(step.key, spec.to_json(), limits)
        with held_events(self._context.instance) as held:
            DagsterEvent.step_worker_starting(
                running.context,
                f'Launching boxed process for "{step.key}".',
                metadata={
                    "enforcement": self._enforcement,
                    "limits": MetadataValue.json(limits.to_json()),
                },
            )
        self._batch.add(running, held)

    def _interrupt(self) -> Iterator[DagsterEvent]:
        yield DagsterEvent.engine_event(
            self._context,
            "Received termination signal - forwarding to active steps",
            EngineEventData.interrupted(list(self._running)),
        )
        self._stopping = True
        self._active.mark_interrupted()
        for key in (*self._running, *self._hooks):
            self._watch.end(key, KillReason.INTERRUPT)

    # --- what happened ----------------------------------------------------------------------------

    def _handle(self, notice: Notice | Broken) -> Iterator[DagsterEvent]:
        if isinstance(notice, Broken | Refused | Warned):
            # What is written now comes behind what came in before it.
            yield from self._store()
        if isinstance(notice, Broken):
            if isinstance(notice.error, SecmonError):
                raise notice.error
            raise LimitsError("the supervisor of the steps failed") from notice.error
        if notice.key in self._hooks:
            yield from self._handle_hooks(notice)
            return
        step = self._running.get(notice.key)
        if step is None:
            return
        if isinstance(notice, Frame):
            yield from self._message(step, notice)
        elif isinstance(notice, Started):
            step.pid = notice.pid
        elif isinstance(notice, Warned):
            yield violation_event(step.context, notice.violation)
            self._books.trail.violation(step.key, notice.violation)
        elif isinstance(notice, Refused):
            yield from self._over(step, self._refused(step, notice.error), None)
        elif isinstance(notice, Ended):
            yield from self._over(step, self._conclude(step, notice), notice)

    def _message(self, step: RunningStep, frame: Frame) -> Iterator[DagsterEvent]:
        try:
            message = read_message(frame.payload)
            entries = [] if message.entry is None else step.take(message.entry)
            step.unread += frame.weight
            if not entries:
                step.hold(frame.weight)
                if step.unread > _ACKNOWLEDGE:
                    # What is held isn't stored, so no batch will say that it was dealt with.
                    self._acknowledge(step)
        except Exception as refused:
            # Foreign bytes may be an event whose parts don't fit together.
            self._forged(step, _why(refused))
            return
        step.done |= message.kind is Kind.DONE
        step.error = message.error or step.error
        for entry in entries:
            self._batch.add(step, [entry])
            event = entry.dagster_event
            if event is not None and event.event_type in ASSET_EVENTS:
                yield from self._store()
                self._watch.send(step.key, STORED)
            elif event is not None and event.is_resource_init_failure:
                yield from self._store()
        if step.done:
            # While its process goes.
            yield from self._store()

    def _acknowledge(self, step: RunningStep) -> None:
        self._watch.consumed(step.key, step.unread)
        step.unread = 0

    def _forged(self, step: RunningStep, what: str) -> None:
        """End a step for what it sent; if it is over already, that is still said of it."""
        step.forged = step.forged or what
        self._watch.end(step.key, KillReason.PROTOCOL, step.forged)

    def _store(self) -> Iterator[DagsterEvent]:
        """Store what has come in, and act on it."""
        for step, entry in self._batch.store():
            event = entry.dagster_event
            if event is None:
                continue
            yield event
            if event.step_key is None:
                continue
            self._advance(step, event)
            resource_error = (
                event.engine_event_data.error if event.is_resource_init_failure else None
            )
            if resource_error is not None:
                failure = plain_failure(
                    step.context, self._active.get_known_state(), resource_error
                )
                yield failure
                self._advance(step, failure)
        for step in self._running.values():
            if step.unread:
                self._acknowledge(step)
            if step.forged is not None:
                self._forged(step, step.forged)

    def _advance(self, step: RunningStep, event: DagsterEvent) -> None:
        self._active.handle_event(event)
        if event.is_step_success:
            step.outcome = "success"
        elif event.is_step_up_for_retry:
            step.outcome = "retry"
        elif event.is_step_failure:
            step.outcome = "failure"

    # --- the end of a step ------------------------------------------------------------------------

    def _over(
        self, step: RunningStep, events: Iterator[DagsterEvent], ended: Ended | None
    ) -> Iterator[DagsterEvent]:
        yield from events
        del self._running[step.key]
        violation = step.violation
        usage = ResourceUsage() if ended is None else ended.usage
        if violation is not None:
            self._books.trail.violation(step.key, violation)
        self._active.verify_complete(self._context, step.key)
        if step.outcome not in ("success", "retry"):
            self._failed.add(step.key)
        if ended is not None and ended.reason is KillReason.INTERRUPT:
            step.outcome = "interrupted"
        self._books.step_is_over(step, usage, violation, self._enforcement)
        if ended is not None:
            if not self._stopping:
                # The next one is under way while the rest is written.
                yield from self._start_steps()
            with held_events(self._context.instance) as held:
                usage_event(step.context, usage_metadata(usage, self._enforcement))
            self._batch.add(step, held)
            if not step.done and step.log_file_key is not None:
                complete_compute_logs(self._context.instance, step.run_id, step.log_file_key)

    def _refused(self, step: RunningStep, reason: SecmonError) -> Iterator[DagsterEvent]:
        error = SerializableErrorInfo(
            message=f"Step {step.key} was not started: {reason.diagnostics()}\n",
            stack=[],
            cls_name=type(reason).__name__,
        )
        failure = plain_failure(
            step.context, self._active.get_known_state(), error, may_retry=False
        )
        yield failure
        self._advance(step, failure)
        step.outcome = "refused"

    def _conclude(self, step: RunningStep, ended: Ended) -> Iterator[DagsterEvent]:
        crashed = ended.signal is not None or bool(ended.exit_code) or not step.done
        believed = step.verdict is not None and not (crashed and step.claims_success)
        if ended.violation is None and step.forged is None and believed:
            self._batch.add(step, step.held)
        yield from self._store()
        violation = ended.violation
        if violation is None and step.forged is not None:
            violation = forgery(step.forged, step.limits, ended)
        step.violation = violation
        if violation is not None:
            yield violation_event(step.context, violation)
        if step.outcome != "running":
            # If not by its own word, it was ended by a resource that failed to start.
            return
        known_state = self._active.get_known_state()
        if violation is not None:
            failure = limit_failure(step.context, known_state, violation)
        elif ended.reason is KillReason.INTERRUPT:
            error = step.error or SerializableErrorInfo(
                message=f"Step {step.key} was interrupted.\n",
                stack=[],
                cls_name="DagsterExecutionInterruptedError",
            )
            failure = plain_failure(
                step.context, known_state, error, source=ErrorSource.INTERRUPT, may_retry=False
            )
        else:
            error = step.error or crash_error(step.key, ended)
            yield DagsterEvent.engine_event(
                step.context, error.message, EngineEventData.engine_error(error)
            )
            failure = plain_failure(step.context, known_state, error)
        yield failure
        self._advance(step, failure)
        if failure.is_step_failure and has_hooks(step.context) and not self._stopping:
            self._start_hooks(step, failure, violation)

    # --- hooks of steps that didn't live to run them ----------------------------------------------

    def _start_hooks(
        self, step: RunningStep, failure: DagsterEvent, violation: Violation | None
    ) -> None:
        key = f"{step.key} hooks"
        limits = limits_of_hooks(
            step.context.step.tags, self._context.dagster_run.tags, self._config
        )
        self._hooks[key] = RunningStep(context=step.context, limits=limits, run_id=step.run_id)
        spec = StepSpec(
            step.key,
            self._active.get_known_state(),
            failure=failure,
            violation=None if violation is None else violation.to_dict(),
            isolated=step.isolated,
        )
        self._watch.start(key, spec.to_json(), limits)

    def _handle_hooks(self, notice: Notice | Broken) -> Iterator[DagsterEvent]:
        if isinstance(notice, Broken):
            return
        hooks = self._hooks[notice.key]
        if isinstance(notice, Frame):
            self._watch.consumed(notice.key, notice.weight)
            try:
                message = read_message(notice.payload)
                entries = [] if message.entry is None else hooks.take(message.entry)
            except Exception as refused:
                # As for a step.
                self._watch.end(notice.key, KillReason.PROTOCOL, _why(refused))
                return
            hooks.done |= message.kind is Kind.DONE
            hooks.error = message.error or hooks.error
            for entry in entries:
                event = entry.dagster_event
                if event is None or event.is_hook_event:
                    self._context.instance.handle_new_event(entry)
                    if event is not None:
                        yield event
        elif isinstance(notice, Ended | Refused):
            del self._hooks[notice.key]
            if isinstance(notice, Ended) and notice.violation is not None:
                yield violation_event(hooks.context, notice.violation)
                self._books.trail.violation(hooks.key, notice.violation)
            if isinstance(notice, Refused) or not hooks.done:
                yield DagsterEvent.engine_event(
                    hooks.context,
                    f"The hooks of step {hooks.key} could not be run to their end.",
                    EngineEventData(error=hooks.error),
                )


def _why(refused: Exception) -> str:
    if isinstance(refused, BadMessage | ForgedEvent):
        return str(refused)
    return f"sent an event that is none ({type(refused).__name__})"
