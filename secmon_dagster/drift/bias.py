"""Bias drift: did a fairness gap between strata grow?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.results import BiasMetric
from secmon_dagster.errors import InvalidInputError

_FIELDS = ("metric_name", "stratum_type", "stratum_value", "baseline_value", "current_value")


def read_bias(given: BiasMetric | Mapping[str, Any], thresholds: Thresholds) -> BiasMetric:
    """A gap that was measured elsewhere, judged by how much it grew.

    Raises:
        InvalidInputError: if a field is absent or a value is not between -1 and 1.
    """
    if isinstance(given, BiasMetric):
        return given
    absent = [name for name in _FIELDS if name not in given]
    if absent:
        raise InvalidInputError.of("bias_data", f"without {', '.join(absent)}", ", ".join(_FIELDS))
    before, now = (_gap(name, given[name]) for name in ("baseline_value", "current_value"))
    return BiasMetric(
        metric_name=str(given["metric_name"]),
        stratum_type=str(given["stratum_type"]),
        stratum_value=str(given["stratum_value"]),
        baseline_value=before,
        current_value=now,
        # Rounded, because 0.15 - 0.05 must not fall short of a threshold of 0.1 by one bit.
        level=thresholds.level("bias", round(abs(now) - abs(before), 12)),
    )


def _gap(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise InvalidInputError.of(f"bias_data.{name}", value, "-1 to 1")
    return float(value)
