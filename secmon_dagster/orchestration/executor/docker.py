"""``limited_docker_executor``: Dagster's Docker executor with each step's own limits.

Stock, all containers of a run get the same arguments. Here a step's declaration becomes those of
its container, and Docker enforces: memory, CPU, processes. Time is looked at every second. Steps in
containers write their own events to Dagster's storage, so one that may have no network is refused.

Needs the extra ``docker``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from dagster import Executor, InitExecutorContext, executor
from dagster_docker import docker_executor
from dagster_docker.container_context import DockerContainerContext
from dagster_docker.docker_executor import DockerStepHandler

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import MB
from secmon_dagster.orchestration.dagster_internals import (
    CheckStepHealthResult,
    StepHandlerContext,
    multiple_process_executor_requirements,
)
from secmon_dagster.orchestration.executor.declared import NoOverrides, limits_of

_STOCK: Any = docker_executor
_LOOK_EVERY = 1
"""Seconds between looks at running containers; Dagster takes whole seconds."""


def container_arguments(op_name: str, limits: ResourceLimits) -> dict[str, Any]:
    """Complete limits in the words of ``docker create``.

    Raises:
        EnforcementUnavailableError: the step may have no network.
    """
    if limits.allow_network is False:
        raise EnforcementUnavailableError(
            f"op {op_name}: a step in a container writes its own events, so it can't be without"
            " network",
            hint="Run it under resource_limit_executor, whose steps need none for their events.",
        )
    arguments: dict[str, Any] = {}
    if limits.max_memory_mb is not None and limits.enforce_memory_limit:
        size = round(limits.max_memory_mb * MB)
        # The second one is memory and swap together: no swap.
        arguments |= {"mem_limit": size, "memswap_limit": size}
    if limits.max_cpu_percent is not None:
        arguments["nano_cpus"] = round(limits.max_cpu_percent * 10_000_000)
    if limits.max_processes is not None:
        arguments["pids_limit"] = limits.max_processes
    return arguments


class LimitedDockerStepHandler(DockerStepHandler):
    """Launches each step under its own limits, and says which one ended it."""

    @property
    def name(self) -> str:
        return "LimitedDockerStepHandler"

    def _limits(self, context: StepHandlerContext) -> tuple[str, ResourceLimits]:
        step = context.get_step_context(self._get_step_key(context)).step
        name = step.node_handle.name
        run_tags = context.dagster_run.tags
        return name, limits_of(name, step.tags or {}, run_tags, NoOverrides())

    def _get_docker_container_context(self, context: StepHandlerContext) -> DockerContainerContext:
        arguments = container_arguments(*self._limits(context))
        shared: DockerContainerContext = super()._get_docker_container_context(context)
        own: DockerContainerContext = shared.merge(
            DockerContainerContext(container_kwargs=arguments)
        )
        return own

    def check_step_health(self, context: StepHandlerContext) -> CheckStepHealthResult:
        found = self._container(context)
        if found is not None:
            _, limits = self._limits(context)
            state = found.attrs["State"]
            if state.get("OOMKilled"):
                allowed = f"its {limits.max_memory_mb:g} MB of memory"
                return CheckStepHealthResult.unhealthy(
                    f"memory_limit_exceeded: used all of {allowed}"
                )
            seconds = (limits.max_execution_time_ms or 0) / 1000
            if limits.enforce_time_limit and state["Running"] and _age(state) > seconds:
                found.kill()
                return CheckStepHealthResult.unhealthy(
                    f"time_limit_exceeded: ran longer than its {seconds:g} s"
                )
        stock: CheckStepHealthResult = super().check_step_health(context)
        return stock

    def _container(self, context: StepHandlerContext) -> Any:
        client = self._get_client(self._get_docker_container_context(context))
        named = client.containers.list(
            all=True, filters={"name": f"^/?{self._get_container_name(context)}$"}
        )
        return named[0] if named else None


def _age(state: dict[str, Any]) -> float:
    """Seconds since a container was started; Docker writes nanoseconds, Python reads none."""
    started = datetime.fromisoformat(state["StartedAt"][:19]).replace(tzinfo=UTC)
    return (datetime.now(UTC) - started).total_seconds()


@executor(
    name="limited_docker_executor",
    config_schema=_STOCK.config_schema,
    requirements=multiple_process_executor_requirements(),
)
def limited_docker_executor(init_context: InitExecutorContext) -> Executor:
    """As ``docker_executor``, with its configuration; each step under the limits it declares."""
    made = _STOCK.executor_creation_fn(init_context)
    stock = made._step_handler
    made._step_handler = LimitedDockerStepHandler(stock._image, stock._container_context)
    made._check_step_health_interval_seconds = _LOOK_EVERY
    return cast(Executor, made)
