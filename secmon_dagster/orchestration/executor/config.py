"""The executor's configuration: Dagster's own fields, and the limits'."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from dagster import Array, Enum, EnumValue, Field, Float, Noneable, Permissive, StringSource

from secmon_dagster.limits.backends.hierarchy import find_hierarchies
from secmon_dagster.limits.capabilities import BackendName
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.quantity import finite, megabytes, refuse
from secmon_dagster.limits.supervisor import MONITOR_EVERY
from secmon_dagster.orchestration.dagster_internals import (
    RetryMode,
    StepDependencyConfig,
    get_retries_config,
    get_step_dependency_config_field,
    get_tag_concurrency_limits_config,
)

AuditMode = Literal["required", "best_effort", "off"]

_BACKEND = Enum(
    "LimitsBackend", [EnumValue(name) for name in ("auto", "cgroup2", "cgroup1", "sampled")]
)
_AUDIT = Enum("LimitsAudit", [EnumValue(name) for name in ("required", "best_effort", "off")])

CONFIG_SCHEMA: dict[str, Field] = {
    "max_concurrent": Field(
        Noneable(int),
        default_value=None,
        description="Steps at once; by default as many as there are CPUs in the run's quota.",
    ),
    "retries": get_retries_config(),
    "tag_concurrency_limits": get_tag_concurrency_limits_config(),
    "step_dependency_config": get_step_dependency_config_field(),
    "default_limits": Field(
        Permissive(),
        default_value={},
        description="Limits of steps that declare none, in the JSON form (maxMemoryMB, ...).",
    ),
    "per_op_limits": Field(
        Permissive(),
        default_value={},
        description="Limits by op name, in the JSON form; they win over what the op declares.",
    ),
    "memory_budget": Field(
        Noneable(str),
        default_value=None,
        description="Sum of the declared memory of steps running at once, such as 8GiB;"
        " by default what the machine or the run's group has.",
    ),
    "backend": Field(_BACKEND, default_value="auto", description="Who enforces the limits."),
    "require_hard_limits": Field(
        bool, default_value=False, description="Refuse to run where limits can only be sampled."
    ),
    "grace": Field(
        Float, default_value=5.0, description="Seconds between asking a step to stop and ending it."
    ),
    "monitor_interval": Field(
        Float,
        default_value=MONITOR_EVERY,
        description="Window in seconds of usage figures and of sustained CPU.",
    ),
    "preload_modules": Field(
        Array(StringSource),
        default_value=[],
        description="Modules to import before the first step is forked.",
    ),
    "capture_compute_logs": Field(
        bool,
        default_value=True,
        description="Capture stdout and stderr without Dagster's watcher processes.",
    ),
    "audit": Field(
        _AUDIT,
        default_value="required",
        description="required: a step whose start can't be written to the audit chain isn't run.",
    ),
}


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """The configuration, read and checked."""

    max_concurrent: int
    retries: RetryMode
    tag_concurrency_limits: list[dict[str, Any]]
    step_dependency_config: StepDependencyConfig
    default_limits: ResourceLimits = field(default_factory=ResourceLimits)
    per_op_limits: Mapping[str, ResourceLimits] = field(default_factory=dict)
    memory_budget_mb: float = math.inf
    backend: BackendName = "auto"
    require_hard_limits: bool = False
    grace: float = 5.0
    monitor_interval: float = MONITOR_EVERY
    preload_modules: tuple[str, ...] = ()
    capture_compute_logs: bool = True
    audit: AuditMode = "required"

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> ExecutorConfig:
        """From the run's configuration.

        Raises:
            InvalidLimitsError: naming field, value and range.
        """
        budget = config["memory_budget"]
        default_limits = ResourceLimits.from_json(config["default_limits"])
        default_limits.validate(for_step=True)
        per_op = {
            name: ResourceLimits.from_json(document)
            for name, document in config["per_op_limits"].items()
        }
        for declared in per_op.values():
            declared.validate(for_step=True)
        return cls(
            max_concurrent=_concurrency(config["max_concurrent"]),
            retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
            tag_concurrency_limits=config.get("tag_concurrency_limits") or [],
            step_dependency_config=StepDependencyConfig.from_config(
                config.get("step_dependency_config")
            ),
            default_limits=default_limits,
            per_op_limits=per_op,
            memory_budget_mb=(
                machine_memory_mb() if budget is None else megabytes("memory_budget", budget)
            ),
            backend=cast(BackendName, config["backend"]),
            require_hard_limits=config["require_hard_limits"],
            grace=_positive("grace", config["grace"], 3600),
            monitor_interval=_positive("monitor_interval", config["monitor_interval"], 3600),
            preload_modules=tuple(config["preload_modules"]),
            capture_compute_logs=config["capture_compute_logs"],
            audit=cast(AuditMode, config["audit"]),
        )


def cpu_quota() -> int:
    """CPUs this process may use: its affinity, and the quota of its control group, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = find_hierarchies()
    allowed = float(cores or 1)
    try:
        if here.version2 is not None and (here.version2 / "cpu.max").exists():
            quota, period = (here.version2 / "cpu.max").read_text().split()
        else:
            folder = here.version1.get("cpu", Path("/nonexistent"))
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        if quota not in ("max", "-1"):
            allowed = min(allowed, int(quota) / int(period))
    except OSError:
        # No groups, no quota.
        return int(allowed)
    return max(1, math.ceil(allowed))


def machine_memory_mb() -> float:
    """Memory of the machine, or of the control group of this process if that has a limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    here = find_hierarchies()
    candidates = []
    if here.version2 is not None:
        candidates.append(here.version2 / "memory.max")
    if "memory" in here.version1:
        candidates.append(here.version1["memory"] / "memory.limit_in_bytes")
    for file in candidates:
        try:
            text = file.read_text().strip()
        except OSError:
            # The root group of version 2 has no such file.
            continue
        if text.isdigit():
            total = min(total, int(text) / 2**20)
    return total


def _concurrency(value: int | None) -> int:
    # As with the stock executor, 0 and null stand for "choose".
    chosen = value or int(os.getenv("DAGSTER_MULTIPROCESS_EXECUTOR_MAX_CONCURRENT") or cpu_quota())
    if chosen < 1:
        raise refuse("max_concurrent", chosen, "1 or more, or 0 for one a CPU")
    return chosen


def _positive(name: str, value: float, highest: float) -> float:
    allowed = f"0 < x <= {highest:g} seconds"
    if not 0 < finite(name, value, allowed) <= highest:
        raise refuse(name, value, allowed)
    return float(value)
