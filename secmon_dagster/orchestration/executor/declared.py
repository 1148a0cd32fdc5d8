"""Which limits bind a step: configuration, op tags, layer, defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from secmon_dagster import posture
from secmon_dagster.errors import InvalidLimitsError, NotFoundError
from secmon_dagster.limits.declaration import DEFAULT_LIMITS, LAYER_TAG, ResourceLimits
from secmon_dagster.limits.layers import LAYERS, layer_limits, tightened
from secmon_dagster.orchestration.dagster_internals import IExecutionStep
from secmon_dagster.orchestration.executor.config import ExecutorConfig
from secmon_dagster.posture.executions import INSTANCE_TAG


class Overrides(Protocol):
    """What a run's configuration says of limits."""

    @property
    def default_limits(self) -> ResourceLimits: ...

    @property
    def per_op_limits(self) -> Mapping[str, ResourceLimits]: ...


@dataclass(frozen=True, slots=True)
class NoOverrides:
    """A configuration that says nothing of limits."""

    default_limits: ResourceLimits = field(default_factory=ResourceLimits)
    per_op_limits: Mapping[str, ResourceLimits] = field(default_factory=dict)


def layers_of(tags: Mapping[str, str], run_tags: Mapping[str, str]) -> list[str]:
    """The layers that bind a step: the op's and the run's."""
    return [named[LAYER_TAG] for named in (tags, run_tags) if named.get(LAYER_TAG)]


def limits_of(
    op_name: str,
    tags: Mapping[str, str],
    run_tags: Mapping[str, str],
    config: Overrides,
    layers: Mapping[str, ResourceLimits] = LAYERS,
) -> ResourceLimits:
    """Complete limits of a step.

    What the run's configuration says of the op wins over the op's tags, and those over the
    defaults; a layer, of the op, of the run or of both, binds them all.

    Raises:
        InvalidLimitsError: naming the op, the field, its value and its range.
    """
    if INSTANCE_TAG in run_tags and LAYER_TAG not in run_tags:
        raise InvalidLimitsError(
            f"op {op_name}: the run is of instance {run_tags[INSTANCE_TAG]!r} and under no layer",
            hint="Submit it to the run queue, which knows the instance's layer; "
            "`dagster job execute` and the like pass it by.",
        )
    try:
        declared = ResourceLimits.from_tags(tags) or ResourceLimits()
        declared = config.per_op_limits.get(op_name, ResourceLimits()).merge(declared)
        complete = declared.merge(config.default_limits).merge(DEFAULT_LIMITS)
        complete = _bound(complete, tags, run_tags, layers)
        complete.validate(for_step=True)
    except InvalidLimitsError as wrong:
        raise InvalidLimitsError(f"op {op_name}: {wrong.message}", **wrong.context) from None
    return complete


def limits_of_hooks(
    tags: Mapping[str, str],
    run_tags: Mapping[str, str],
    config: Overrides,
    layers: Mapping[str, ResourceLimits] = LAYERS,
) -> ResourceLimits:
    """Complete limits of the hooks of a step that didn't live to run them.

    They have what the step has left nothing of, so its own limits don't bind them; its layers do.
    """
    return _bound(config.default_limits.merge(DEFAULT_LIMITS), tags, run_tags, layers)


def _bound(
    complete: ResourceLimits,
    tags: Mapping[str, str],
    run_tags: Mapping[str, str],
    layers: Mapping[str, ResourceLimits],
) -> ResourceLimits:
    for layer in layers_of(tags, run_tags):
        complete = tightened(complete, _limits_of_layer(layer, layers))
    return complete


def _limits_of_layer(name: str, layers: Mapping[str, ResourceLimits]) -> ResourceLimits:
    """A built-in layer, or one that an administrator made."""
    if name in layers:
        return layers[name]
    try:
        return ResourceLimits.from_json(posture.layer_limits(name))
    except NotFoundError:
        return layer_limits(name, layers)  # says which there are


def check_plan(
    steps: Iterable[IExecutionStep],
    run_tags: Mapping[str, str],
    config: ExecutorConfig,
    layers: Mapping[str, ResourceLimits] = LAYERS,
) -> None:
    """Check every step's limits before the first one runs.

    Raises:
        InvalidLimitsError: naming the op; also for one that alone is over the memory budget.
    """
    for step in steps:
        name = step.node_handle.name
        declared = limits_of(name, step.tags or {}, run_tags, config, layers)
        memory = declared.max_memory_mb or 0
        if memory > config.memory_budget_mb:
            raise InvalidLimitsError(
                f"op {name}: max_memory_mb is {memory:g}; allowed: up to the memory budget of"
                f" {config.memory_budget_mb:g} MB",
                hint="Raise the executor's memory_budget or lower the op's memory limit.",
            )
