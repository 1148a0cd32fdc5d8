"""What a process may use: declared once, in op tags, so that it reaches every executor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta

from secmon_dagster.errors import InvalidLimitsError
from secmon_dagster.limits.quantity import finite, megabytes, milliseconds, percent, refuse
from secmon_dagster.limits.targets import Target, target_tags

LIMITS_TAG = "secmon/limits"
LAYER_TAG = "secmon/layer"

MAX_TIME_MS = 24 * 3_600_000
MAX_MEMORY_MB = 32 * 1024
MAX_PROCESSES = 100_000
STEP_MINIMUM_MB = 32
"""A trivial step, forked warm, peaks at 8 to 13 MB before any user code; below this, it may not."""

_JSON_NAMES = {
    "maxExecutionTimeMs": "max_execution_time_ms",
    "maxMemoryMB": "max_memory_mb",
    "maxCpuPercent": "max_cpu_percent",
    "maxProcesses": "max_processes",
    "allowNetwork": "allow_network",
    "enforceMemoryLimit": "enforce_memory_limit",
    "enforceCpuLimit": "enforce_cpu_limit",
    "enforceTimeLimit": "enforce_time_limit",
    "enforceNetworkLimit": "enforce_network_limit",
}


def _in_range(field: str, value: object, highest: float, unit: str) -> None:
    if value is None:
        return
    allowed = f"0 < x <= {highest:g} {unit}"
    if not 0 < finite(field, value, allowed) <= highest:
        raise refuse(field, value, allowed)


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of one process tree; ``None`` means not declared here, see :meth:`merge`.

    ``max_cpu_percent`` is a percentage of one core. ``max_processes`` counts threads too.
    A limit that isn't enforced is watched: going over it is a violation of medium severity and
    the process goes on. CPU is a quota where the back end has quotas; enforcing it means that a
    process which sits at its quota for three windows is ended.

    Raises:
        InvalidLimitsError: naming field, value and range.
    """

    max_execution_time_ms: float | None = None
    max_memory_mb: float | None = None
    max_cpu_percent: float | None = None
    max_processes: int | None = None
    allow_network: bool | None = None
    enforce_memory_limit: bool | None = None
    enforce_cpu_limit: bool | None = None
    enforce_time_limit: bool | None = None
    enforce_network_limit: bool | None = None

    def __post_init__(self) -> None:
        self.validate()

    @classmethod
    def of(
        cls,
        *,
        memory: str | None = None,
        cpu: float | str | None = None,
        time: str | float | timedelta | None = None,
        processes: int | None = None,
        network: bool | None = None,
        enforce_memory: bool | None = None,
        enforce_cpu: bool | None = None,
        enforce_time: bool | None = None,
        enforce_network: bool | None = None,
    ) -> ResourceLimits:
        """From what people write: ``of(memory="512MiB", cpu=80, time="10m")``."""
        return cls(
            max_execution_time_ms=None if time is None else milliseconds("time", time),
            max_memory_mb=None if memory is None else megabytes("memory", memory),
            max_cpu_percent=None if cpu is None else percent("cpu", cpu),
            max_processes=processes,
            allow_network=network,
            enforce_memory_limit=enforce_memory,
            enforce_cpu_limit=enforce_cpu,
            enforce_time_limit=enforce_time,
            enforce_network_limit=enforce_network,
        )

    def validate(self, *, for_step: bool = False) -> None:
        """Check every declared field; ``for_step`` also the least memory a step needs.

        Raises:
            InvalidLimitsError: naming field, value and range.
        """
        _in_range("max_execution_time_ms", self.max_execution_time_ms, MAX_TIME_MS, "ms (24 h)")
        _in_range("max_memory_mb", self.max_memory_mb, MAX_MEMORY_MB, "MB (32 GB)")
        _in_range("max_cpu_percent", self.max_cpu_percent, 100, "percent of one core")
        if self.max_processes is not None and not (
            isinstance(self.max_processes, int)
            and not isinstance(self.max_processes, bool)
            and 0 < self.max_processes <= MAX_PROCESSES
        ):
            allowed = f"a whole number, 0 < n <= {MAX_PROCESSES}"
            raise refuse("max_processes", self.max_processes, allowed)
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                field.name.startswith(("allow_", "enforce_"))
                and value is not None
                and not isinstance(value, bool)
            ):
                raise refuse(field.name, value, "true or false")
        if for_step and self.max_memory_mb is not None and self.max_memory_mb < STEP_MINIMUM_MB:
            raise refuse(
                "max_memory_mb",
                self.max_memory_mb,
                f"{STEP_MINIMUM_MB} MB or more, which a step needs before any code of its own runs",
            )

    def merge(self, defaults: ResourceLimits) -> ResourceLimits:
        """These limits, with what isn't declared here taken from ``defaults``."""
        missing = {
            field.name: getattr(defaults, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None
        }
        return replace(self, **missing)

    def to_json(self) -> dict[str, float | int | bool]:
        """The JSON form (``maxMemoryMB``, …) with the declared fields only."""
        return {
            name: value
            for name, attribute in _JSON_NAMES.items()
            if (value := getattr(self, attribute)) is not None
        }

    @classmethod
    def from_json(cls, document: str | bytes | Mapping[str, object]) -> ResourceLimits:
        """From the JSON form, as text or parsed. Unknown keys are refused."""
        if isinstance(document, str | bytes):
            try:
                parsed = json.loads(document)
            except ValueError as broken:
                raise InvalidLimitsError(f"limits are not JSON: {broken}") from None
        else:
            parsed = document
        if not isinstance(parsed, Mapping):
            raise refuse("limits", parsed, "a JSON object")
        unknown = sorted(str(key) for key in parsed if key not in _JSON_NAMES)
        if unknown:
            raise refuse("limits", ", ".join(unknown), f"the keys {', '.join(_JSON_NAMES)}")
        return cls(**{_JSON_NAMES[key]: value for key, value in parsed.items()})

    def to_tags(self, *targets: Target) -> dict[str, str]:
        """Op tags; with ``targets`` also those that other executors read."""
        document = self.to_json()
        return {
            LIMITS_TAG: json.dumps(document, sort_keys=True),
            **target_tags(
                targets,
                memory_mb=self.max_memory_mb,
                cpu_percent=self.max_cpu_percent,
                time_ms=self.max_execution_time_ms,
                network=self.allow_network,
            ),
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> ResourceLimits | None:
        """What ``tags`` declare, or ``None`` if they say nothing of limits."""
        declared = tags.get(LIMITS_TAG)
        return None if declared is None else cls.from_json(declared)


DEFAULT_LIMITS = ResourceLimits(
    max_execution_time_ms=3_600_000,
    max_memory_mb=2048,
    max_cpu_percent=80,
    max_processes=1024,
    allow_network=True,
    enforce_memory_limit=True,
    enforce_cpu_limit=False,
    enforce_time_limit=True,
    enforce_network_limit=True,
)


def limits(
    *,
    memory: str | None = None,
    cpu: float | str | None = None,
    time: str | float | timedelta | None = None,
    processes: int | None = None,
    network: bool | None = None,
    enforce_memory: bool | None = None,
    enforce_cpu: bool | None = None,
    enforce_time: bool | None = None,
    enforce_network: bool | None = None,
    also_for: tuple[Target, ...] = (),
) -> dict[str, str]:
    """Op tags that limit an op: ``@op(tags=limits(memory="512MiB", cpu=80, time="10m"))``.

    For assets use ``op_tags=``: an asset's ``tags=`` never reach its step. ``also_for`` adds the
    tags that Kubernetes, ECS and Ray executors read.

    Raises:
        InvalidLimitsError: at definition time, naming field, value and range.
    """
    declared = ResourceLimits.of(
        memory=memory,
        cpu=cpu,
        time=time,
        processes=processes,
        network=network,
        enforce_memory=enforce_memory,
        enforce_cpu=enforce_cpu,
        enforce_time=enforce_time,
        enforce_network=enforce_network,
    )
    declared.validate(for_step=True)
    return declared.to_tags(*also_for)
