"""The executor: starts each step in a box, stores what it says, names what ended it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

from dagster import DagsterEvent, Executor, InitExecutorContext, executor

from secmon_dagster.audit import get_audit_logger
from secmon_dagster.limits.backends import Backend
from secmon_dagster.limits.capabilities import open_backend
from secmon_dagster.limits.supervisor import Supervisor
from secmon_dagster.limits.watch import Watch
from secmon_dagster.limits.zygote import Zygote
from secmon_dagster.orchestration.actor import actor_of
from secmon_dagster.orchestration.dagster_internals import (
    ActiveExecution,
    EngineEventData,
    ExecutionPlan,
    InstanceConcurrencyContext,
    PlanOrchestrationContext,
    RetryMode,
    StepDependencyConfig,
    kept_connections,
    multiple_process_executor_requirements,
)
from secmon_dagster.orchestration.executor.books import Books
from secmon_dagster.orchestration.executor.config import CONFIG_SCHEMA, ExecutorConfig
from secmon_dagster.orchestration.executor.declared import check_plan
from secmon_dagster.orchestration.executor.loop import StepLoop
from secmon_dagster.orchestration.executor.messages import LIMIT_REACHED
from secmon_dagster.orchestration.executor.run_spec import RunSpec
from secmon_dagster.orchestration.executor.trail import Trail
from secmon_dagster.orchestration.executor.usage_rows import UsageRows, insert_rows
from secmon_dagster.orchestration.executor.zygote_main import start_zygote


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
            books = self._books(plan_context)
            yield from StepLoop(plan_context, config, active, watch, backend.name, books).run()
        yield DagsterEvent.engine_event(
            plan_context,
            f"All steps are over, parent process exiting (pid: {os.getpid()})",
            EngineEventData.multiprocess(os.getpid()),
        )

    def _books(self, plan_context: PlanOrchestrationContext) -> Books:
        run, mode = plan_context.dagster_run, self._config.audit
        actor = actor_of(run)
        warn = plan_context.log.warning
        return Books(
            trail=Trail(
                get_audit_logger,
                mode,
                run_id=run.run_id,
                job_name=run.job_name,
                actor=actor,
                warn=warn,
            ),
            usage=UsageRows(None if mode == "off" else insert_rows, warn),
            actor=actor,
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
            backend,
            new_zygote,
            grace=config.grace,
            monitor_every=config.monitor_interval,
            last_word=LIMIT_REACHED,
        )
