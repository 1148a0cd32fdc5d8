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


def layer_of(tags: Mapping[str, str], run_tags: Mapping[str, str]) -> str | None:
    """The layer that binds a step: the op's, or else the run's."""
    return tags.get(LAYER_TAG) or run_tags.get(LAYER_TAG)


def limits_of(
    op_name: str,
    tags: Mapping[str, str],
    run_tags: Mapping[str, str],
    config: Overrides,
    layers: Mapping[str, ResourceLimits] = LAYERS,
) -> ResourceLimits:
    """Complete limits of a step.

    What the run's configuration says of the op wins over the op's tags, and those over the
    defaults; a layer, of the op or else of the run, binds them all.

    Raises:
        InvalidLimitsError: naming the op, the field, its value and its range.
    """
    try:
        declared = ResourceLimits.from_tags(tags) or ResourceLimits()
        declared = config.per_op_limits.get(op_name, ResourceLimits()).merge(declared)
        complete = declared.merge(config.default_limits).merge(DEFAULT_LIMITS)
        layer = layer_of(tags, run_tags)
        if layer is not None:
            complete = tightened(complete, _limits_of_layer(layer, layers))
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

    They have what the step has left nothing of, so its own limits don't bind them; its layer does.
    """
    complete = config.default_limits.merge(DEFAULT_LIMITS)
    layer = layer_of(tags, run_tags)
    return complete if layer is None else tightened(complete, _limits_of_layer(layer, layers))


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
