"""Security layers: the rules an instance runs under.

===========  ==========================================================================
mode         what the platform does with a rule that is broken
===========  ==========================================================================
``passive``  observes: everything is recorded and scored, nothing is held up
``active``   warns: limits and throttle hold, an offending act is recorded and alerted
``strict``   enforces: limits and throttle hold, an offending act is refused
===========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from secmon_dagster.errors import InvalidInputError

DEFAULT_LAYER = "Default Security Layer"
STRICT_LAYER = "Strict Security Layer"

# The same bounds as a declaration of limits has; below 32 MB no step can even start.
_BOUNDS = {
    "max_execution_time": (1, 86_400_000, "milliseconds"),
    "max_memory_mb": (32, 32_768, "MB"),
    "max_requests_per_minute": (1, 10_000, "requests a minute"),
}


class MonitoringMode(StrEnum):
    """How hard a layer bites."""

    PASSIVE = "passive"
    ACTIVE = "active"
    STRICT = "strict"

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(MonitoringMode).index(self)


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """The rules themselves.

    Attributes:
        max_execution_time: milliseconds a run's step may take, 1 to 86,400,000.
        max_memory_mb: memory of a step, 32 to 32,768 MB.
        allowed_network_access: whether steps reach the network.
        require_approval: a run waits in the queue until a second person approves it.
        auto_terminate_on_violation: a violation cancels the instance's runs.
        log_all_activities: keep every act; otherwise only conspicuous ones.
        max_requests_per_minute: acts and API calls of the instance in any 60 s, 1 to 10,000.
    """

    max_execution_time: int = 300_000
    max_memory_mb: int = 512
    allowed_network_access: bool = True
    require_approval: bool = False
    auto_terminate_on_violation: bool = False
    log_all_activities: bool = True
    max_requests_per_minute: int = 60

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in _BOUNDS:
                low, high, unit = _BOUNDS[spec.name]
                # bool is an int to Python, but true is no number of megabytes.
                if type(value) is not int or not low <= value <= high:
                    raise InvalidInputError.of(
                        f"config.{spec.name}", value, f"an integer from {low} to {high} {unit}"
                    )
            elif type(value) is not bool:
                raise InvalidInputError.of(f"config.{spec.name}", value, "true or false")

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> LayerConfig:
        """From JSON; what is missing takes its default.

        Raises:
            InvalidInputError: naming the first field that is unknown or out of range.
        """
        known = {spec.name for spec in fields(cls)}
        for name in raw:
            if name not in known:
                raise InvalidInputError(
                    f"config.{name} is no rule of a layer; allowed: {', '.join(sorted(known))}",
                    field=f"config.{name}",
                )
        return cls(**raw)  # type: ignore[arg-type]  # __post_init__ checks every value's type


@dataclass(frozen=True, slots=True)
class SecurityLayer:
    """A named set of rules."""

    layer_id: str
    name: str
    description: str
    config: LayerConfig
    monitoring_mode: MonitoringMode
    created_by: str | None = field(default=None)
    created_at: datetime | None = field(default=None)

    def limits(self) -> dict[str, int | bool]:
        """The limits of a step under this layer, as a declaration in camelCase.

        A passive layer measures and reports; CPU is a quota that only a strict layer ends a step
        for. Isolation from the network is part of the environment, so no mode relaxes it.
        """
        holds = self.monitoring_mode is not MonitoringMode.PASSIVE
        return {
            "maxExecutionTimeMs": self.config.max_execution_time,
            "maxMemoryMB": self.config.max_memory_mb,
            "enforceTimeLimit": holds,
            "enforceMemoryLimit": holds,
            "enforceCpuLimit": self.monitoring_mode is MonitoringMode.STRICT,
            "allowNetwork": self.config.allowed_network_access,
        }

    def loosens(self, current: SecurityLayer) -> list[str]:
        """The rules that would be weaker under this layer than under ``current``."""
        mine, theirs = asdict(self.config), asdict(current.config)
        weaker = [name for name in _BOUNDS if mine[name] > theirs[name]]
        if mine["allowed_network_access"] and not theirs["allowed_network_access"]:
            weaker.append("allowed_network_access")
        for rule in ("require_approval", "auto_terminate_on_violation", "log_all_activities"):
            if theirs[rule] and not mine[rule]:
                weaker.append(rule)
        if self.monitoring_mode.rank < current.monitoring_mode.rank:
            weaker.append("monitoring_mode")
        return weaker


def parse_mode(value: object) -> MonitoringMode:
    """The mode called ``value``.

    Raises:
        InvalidInputError: there is none of that name.
    """
    if isinstance(value, str) and value in set(MonitoringMode):
        return MonitoringMode(value)
    raise InvalidInputError.of("monitoring_mode", value, ", ".join(MonitoringMode))
