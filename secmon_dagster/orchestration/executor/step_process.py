"""A step inside its box: execute it as Dagster does and send what it has to say."""

from __future__ import annotations

import os
import socket
import sys

from dagster import DagsterEvent, DagsterInstance, MetadataValue

from secmon_dagster.errors import LimitExceededError, SecmonError
from secmon_dagster.limits.environment import forget, secret_names
from secmon_dagster.orchestration.dagster_internals import (
    DagsterExecutionInterruptedError,
    ExecutionPlan,
    capture_interrupts,
    create_context_free_log_manager,
    create_execution_plan,
    divert_events,
    execute_plan_iterator,
    run_hooks,
    run_hooks_unless,
    serializable_error_info_from_exc_info,
)
from secmon_dagster.orchestration.executor.messages import StepLink
from secmon_dagster.orchestration.executor.rehearsal import Rehearsal
from secmon_dagster.orchestration.executor.run_spec import RunSpec, StepSpec
from secmon_dagster.settings import get_settings


class StepProcess:
    """Called in each fork of the zygote."""

    def __init__(self, spec: RunSpec, instance: DagsterInstance) -> None:
        self._spec = spec
        self._instance = instance
        self._rehearsal = Rehearsal()

    def rehearse(self) -> None:
        """Do what each step does up to its op, so that the next time it is quick."""
        spec = self._spec
        create_execution_plan(
            job=spec.job,
            run_config=spec.run_config,
            repository_load_data=spec.repository_load_data,
        )
        self._rehearsal()

    def __call__(self, document: bytes, channel: socket.socket) -> int:
        """Execute the step that ``document`` names; returns the process's exit code."""
        step = StepSpec.from_json(document)
        if step.isolated:
            forget(secret_names(os.environ))
            get_settings.cache_clear()
        link = StepLink(channel)
        divert_events(self._instance, link.event)
        run_hooks_unless(link.ended_at_a_limit)
        _reseed()
        with capture_interrupts():
            try:
                if step.failure is None:
                    self._execute(step)
                else:
                    self._run_hooks(step, step.failure)
            except (Exception, KeyboardInterrupt, DagsterExecutionInterruptedError):
                link.error(serializable_error_info_from_exc_info(sys.exc_info()))
            else:
                link.done()
        return 0

    def _execute(self, step: StepSpec) -> None:
        spec = self._spec
        DagsterEvent.step_worker_started(
            create_context_free_log_manager(self._instance, spec.run),
            spec.run.job_name,
            message=f'Executing step "{step.step_key}" in subprocess.',
            metadata={"pid": MetadataValue.text(str(os.getpid()))},
            step_key=step.step_key,
        )
        events = execute_plan_iterator(
            self._plan(step),
            spec.job,
            spec.run,
            run_config=spec.run_config,
            retry_mode=spec.retries.for_inner_plan(),
            instance=self._instance,
        )
        for _ in events:
            # Each event was sent when it was logged; the iterator only has to be driven.
            continue

    def _run_hooks(self, step: StepSpec, failure: DagsterEvent) -> None:
        message = failure.step_failure_data.error_display_string
        violation = step.violation
        error = SecmonError(message) if violation is None else LimitExceededError(message)
        error.context = violation or {}
        run_hooks(
            self._plan(step),
            self._spec.job,
            self._spec.run,
            self._spec.run_config,
            self._instance,
            failure,
            error,
        )

    def _plan(self, step: StepSpec) -> ExecutionPlan:
        return create_execution_plan(
            job=self._spec.job,
            run_config=self._spec.run_config,
            step_keys_to_execute=[step.step_key],
            known_state=step.known_state,
            repository_load_data=self._spec.repository_load_data,
        )


def _reseed() -> None:
    """Give numpy's global generator a state of its own; ``random`` sees to itself after a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
