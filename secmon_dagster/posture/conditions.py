"""When a sub-workflow runs: conditions on its parent, as data.

A condition is a JSON object; all of its keys must hold::

    {"status": "success", "score_above": 80}
    {"metrics": {"accuracy": {"gte": 0.9}, "rows": {"gt": 0, "lt": 1e6}}}

Without a condition a child runs when its parent succeeded. A metric or score the parent doesn't
have makes the condition fail, and the reason says so.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from secmon_dagster.errors import InvalidInputError

_STATUSES = {
    "success": "success",
    "successful": "success",
    "completed": "success",
    "failed": "failed",
    "failure": "failed",
    "any": "any",
}
_COMPARISONS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": (">", operator.gt),
    "gte": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "lte": ("<=", operator.le),
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
}
_KEYS = ("status", "score_above", "score_below", "metrics")
SCORE = "security_score"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``metric`` compared with ``value`` by ``name`` (gt, gte, lt, lte, eq, ne)."""

    metric: str
    name: str
    value: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """False when the metric isn't there or isn't a number."""
        found = metrics.get(self.metric)
        return (
            found is not None
            and not math.isnan(found)
            and _COMPARISONS[self.name][1](found, self.value)
        )

    def __str__(self) -> str:
        return f"{self.metric} {_COMPARISONS[self.name][0]} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Condition:
    """What the parent must have reached: its status, and every comparison."""

    status: str = "success"
    comparisons: tuple[Comparison, ...] = field(default=())

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Condition:
        """From JSON.

        Raises:
            InvalidInputError: an unknown key, status or comparison, or a bound that is no number.
        """
        for key in raw:
            if key not in _KEYS:
                raise InvalidInputError(
                    f"condition.{key} is unknown; allowed: {', '.join(_KEYS)}",
                    field=f"condition.{key}",
                )
        status = raw.get("status", "success")
        if not isinstance(status, str) or status not in _STATUSES:
            raise InvalidInputError.of("condition.status", status, ", ".join(_STATUSES))
        comparisons = [
            Comparison(SCORE, name, _number(f"condition.{key}", raw[key]))
            for key, name in (("score_above", "gt"), ("score_below", "lt"))
            if key in raw
        ]
        metrics = raw.get("metrics", {})
        if not isinstance(metrics, Mapping):
            raise InvalidInputError.of("condition.metrics", metrics, "an object of metric names")
        for metric, bounds in metrics.items():
            where = f"condition.metrics.{metric}"
            if not isinstance(bounds, Mapping) or not bounds:
                raise InvalidInputError.of(where, bounds, f"an object of {', '.join(_COMPARISONS)}")
            for name, value in bounds.items():
                if name not in _COMPARISONS:
                    raise InvalidInputError.of(where, name, ", ".join(_COMPARISONS))
                comparisons.append(Comparison(metric, name, _number(f"{where}.{name}", value)))
        return cls(_STATUSES[status], tuple(comparisons))

    def unmet(self, status: str, metrics: Mapping[str, float]) -> str | None:
        """Why a parent that ended in ``status`` with ``metrics`` doesn't meet it; None if it does.

        >>> Condition.of({"score_above": 80}).unmet("success", {"security_score": 72})
        'security_score > 80 does not hold: it is 72'
        """
        if self.status not in ("any", status):
            return f"status {self.status} is asked for, the parent ended {status}"
        for comparison in self.comparisons:
            if not comparison.holds(metrics):
                found = metrics.get(comparison.metric)
                known = "the parent has none" if found is None else f"it is {found:g}"
                return f"{comparison} does not hold: {known}"
        return None


def _number(field_name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInputError.of(field_name, value, "a finite number")
    return float(value)
