"""Bias drift: did a fairness gap between a stratum and everybody else grow?

*Demographic parity*: the share of a stratum that is selected minus that of all others.
*Equal opportunity*: the same among rows whose label is positive (the true-positive rate).

A gap is counts, so baselines merge over partitions. It raises a level only if it grew by the
threshold **and** the 95 % interval of its growth excludes none at all; a stratum of fewer rows than
``min_stratum`` is named and not judged: gaps of 0.6 on census data came from strata of one person.

References
----------
Newcombe, R. (1998). *Statistics in Medicine* 17(8), method 10. (difference of two proportions)
Zou, G. and Donner, A. (2008). *Statistics in Medicine* 27(10). (difference of two such)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd

from secmon_dagster.drift.columns import as_series, category_text
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.results import BiasMetric
from secmon_dagster.drift.vocabulary import AlertLevel
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


@dataclass(frozen=True)
class Gap:
    """Hits and rows of a stratum and of all others, on one metric."""

    metric_name: str
    stratum_value: str
    hits: int
    rows: int
    other_hits: int
    other_rows: int

    def __add__(self, other: Gap) -> Gap:
        return Gap(
            self.metric_name,
            self.stratum_value,
            self.hits + other.hits,
            self.rows + other.rows,
            self.other_hits + other.other_hits,
            self.other_rows + other.other_rows,
        )

    @property
    def value(self) -> float:
        """The stratum's share minus that of the others."""
        return self.hits / self.rows - self.other_hits / self.other_rows

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Newcombe's interval of :attr:`value`."""
        return newcombe(self.hits, self.rows, self.other_hits, self.other_rows, confidence)


def wilson(hits: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; equals
    ``scipy.stats.binomtest(...).proportion_ci(method="wilson")``."""
    from scipy.stats import norm  # a second, and most checks have no strata

    z = float(norm.ppf((1 + confidence) / 2))
    share = hits / rows
    centre = share + z * z / (2 * rows)
    spread = z * sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def newcombe(
    hits: int, rows: int, other_hits: int, other_rows: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a difference of two proportions.

    >>> low, high = newcombe(56, 70, 48, 80)
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)
    """
    one, other = hits / rows, other_hits / other_rows
    low, high = wilson(hits, rows, confidence)
    other_low, other_high = wilson(other_hits, other_rows, confidence)
    difference = one - other
    return (
        difference - sqrt((one - low) ** 2 + (other_high - other) ** 2),
        difference + sqrt((high - one) ** 2 + (other - other_low) ** 2),
    )


def gaps(predictions: Any, strata: Any, labels: Any = None, *, positive: Any = 1) -> list[Gap]:
    """Demographic parity of each stratum, and equal opportunity where labels are known.

    Args:
        predictions: Predicted classes, shape ``(n,)``.
        strata: The stratum of each row, shape ``(n,)``; rows without one belong to nobody.
        labels: True classes, shape ``(n,)``.
        positive: The class that is selected.

    Raises:
        InvalidInputError: if the lengths differ.
    """
    selected = (as_series(predictions, "predictions") == positive).to_numpy()
    groups = as_series(strata, "strata")
    if len(groups) != len(selected):
        raise InvalidInputError.of("strata", f"{len(groups)} rows", f"{len(selected)} rows")
    eligible = {"demographic_parity_gap": np.ones(len(selected), dtype=bool)}
    if labels is not None:
        truth = as_series(labels, "labels")
        if len(truth) != len(selected):
            raise InvalidInputError.of("labels", f"{len(truth)} rows", f"{len(selected)} rows")
        eligible["equal_opportunity_gap"] = (truth == positive).to_numpy()
    found = []
    for metric, rows in eligible.items():
        chosen = pd.Series(selected[rows])
        of = groups[rows].reset_index(drop=True)
        table = chosen.groupby(of, observed=True).agg(["sum", "count"])
        hits, total = int(table["sum"].sum()), int(table["count"].sum())
        found += [
            Gap(metric, category_text(name), int(h), int(n), hits - int(h), total - int(n))
            for name, h, n in zip(table.index, table["sum"], table["count"], strict=True)
        ]
    return found


def bias_drift(
    baseline: list[Gap],
    current: list[Gap],
    stratum_type: str,
    thresholds: Thresholds | Mapping[str, float] | None = None,
    *,
    among: int | None = None,
) -> list[BiasMetric]:
    """Judge each gap of the current window against the baseline's.

    Args:
        among: How many gaps the whole check judges (unset: these). The chance of a false alarm in
            any of them stays at 5 % (Bonferroni), however many strata there are.
    """
    limits = Thresholds.of(thresholds)
    before = {(gap.metric_name, gap.stratum_value): gap for gap in baseline}
    confidence = 1 - 0.05 / max(1, len(current) if among is None else among)
    return [
        _judge(
            before.get((gap.metric_name, gap.stratum_value)), gap, stratum_type, limits, confidence
        )
        for gap in current
    ]


def _judge(
    before: Gap | None, now: Gap, stratum_type: str, limits: Thresholds, confidence: float
) -> BiasMetric:
    named: dict[str, Any] = {
        "metric_name": now.metric_name,
        "stratum_type": stratum_type,
        "stratum_value": now.stratum_value,
        "rows": now.rows,
    }
    for whose, gap in (("baseline", before), ("current window", now)):
        smallest = 0 if gap is None else min(gap.rows, gap.other_rows)
        if smallest < limits.min_stratum:
            return BiasMetric(
                **named,
                baseline_value=None,
                current_value=None,
                level=None,
                reason=f"the {whose} has {smallest} rows of this stratum or of the others; at "
                f"least {limits.min_stratum} are needed",
            )
    assert before is not None
    low, high = _change_interval(before, now)
    growth = round(abs(now.value) - abs(before.value), 12)
    level = limits.level("bias", growth)
    reason = None
    surely_low, surely_high = _change_interval(before, now, confidence)
    if level is not AlertLevel.NORMAL and surely_low <= 0 <= surely_high:
        level = AlertLevel.NORMAL
        reason = f"a change of {growth:.3f} is within what chance explains"
    return BiasMetric(
        **named,
        baseline_value=before.value,
        current_value=now.value,
        level=level,
        low=low,
        high=high,
        reason=reason,
    )


def _change_interval(before: Gap, now: Gap, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of ``now.value - before.value`` from both Newcombe intervals (MOVER)."""
    (low, high), (old_low, old_high) = now.interval(confidence), before.interval(confidence)
    change = now.value - before.value
    return (
        change - sqrt((now.value - low) ** 2 + (old_high - before.value) ** 2),
        change + sqrt((high - now.value) ** 2 + (before.value - old_low) ** 2),
    )
