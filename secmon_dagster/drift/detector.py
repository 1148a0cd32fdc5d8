"""The detector: a baseline, thresholds, and a check of a window against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from secmon_dagster.drift.bias import read_bias
from secmon_dagster.drift.columns import as_columns, kind_of
from secmon_dagster.drift.compare import (
    FeatureDrift,
    compare_feature,
    count_window,
    judge_window,
)
from secmon_dagster.drift.levels import FALSE_DISCOVERY_RATE, Thresholds, benjamini_hochberg
from secmon_dagster.drift.profile import BaselineProfile, FeatureProfile, output_columns, profile
from secmon_dagster.drift.results import BiasMetric, DriftMetric, DriftReport, SafetyEvent
from secmon_dagster.drift.vocabulary import AlertLevel, worst
from secmon_dagster.errors import InvalidInputError


class DriftDetector:
    """Compares windows with one baseline.

    Args:
        baseline: A profile, or reference data to make one of.
        thresholds: Where levels begin.
        features: Which of the baseline's features to look at; None means all.
        rank_statistics: False leaves out KS and W1, and with them the sort: PSI, KL and JS of a
            million rows then take 3 ms a column.
    """

    def __init__(
        self,
        baseline: BaselineProfile | Any,
        thresholds: Mapping[str, float] | Thresholds | None = None,
        features: Iterable[str] | None = None,
        *,
        rank_statistics: bool = True,
    ) -> None:
        self._rank_statistics = rank_statistics
        made = baseline if isinstance(baseline, BaselineProfile) else profile(baseline)
        self.baseline = made.select(features)
        self.thresholds = Thresholds.of(thresholds)

    def check(
        self,
        input_data: Any = None,
        *,
        output_data: Any = None,
        performance: Sequence[DriftMetric] = (),
        bias_data: Sequence[BiasMetric | Mapping[str, Any]] = (),
        safety_events: Sequence[SafetyEvent] = (),
    ) -> DriftReport:
        """Judge a window.

        Args:
            input_data: Feature columns; all of the baseline's must be there, others are ignored.
            output_data: Scores or classes the model gave; one sequence or columns.
            performance: Judged metrics from :mod:`secmon_dagster.drift.performance`.
            bias_data: Gaps by stratum, judged or as mappings.
            safety_events: What happened that must not.

        Raises:
            InvalidInputError: for missing columns, a column of another kind than in the baseline,
                or nothing to check at all.
        """
        columns = {} if input_data is None else as_columns(input_data, "window")
        outputs = output_columns(output_data)
        if input_data is None and not (outputs or performance or bias_data or safety_events):
            raise InvalidInputError.of("window", "nothing", "input, output, bias or safety data")
        features = () if input_data is None else self._inputs(columns)
        judged_outputs = self._outputs(outputs)
        discounted = _false_discoveries([*features, *judged_outputs])
        features = tuple(discounted[: len(features)])
        judged_outputs = tuple(discounted[len(features) :])
        bias = tuple(read_bias(each, self.thresholds) for each in bias_data)
        level = worst(
            [
                *(_feature_level(each, features) for each in features),
                *(each.level for each in judged_outputs),
                *(each.level for each in performance),
                *(each.level for each in bias),
                *(each.severity.alert_level for each in safety_events),
            ]
        )
        reason = _reason(features)
        if level is AlertLevel.NORMAL and features and not any(f.sufficient for f in features):
            level = None
        return DriftReport(
            level=level,
            reason=reason,
            rows=max((len(each) for each in [*columns.values(), *outputs.values()]), default=0),
            baseline_rows=self.baseline.rows,
            baseline_hash=self.baseline.content_hash,
            features=features,
            outputs=judged_outputs,
            performance=tuple(performance),
            bias=bias,
            safety=tuple(safety_events),
            extra_columns=tuple(name for name in columns if name not in self.baseline.features),
            thresholds=self.thresholds,
        )

    def _inputs(self, columns: Mapping[str, pd.Series]) -> tuple[FeatureDrift, ...]:
        absent = [name for name in self.baseline.features if name not in columns]
        if absent:
            raise InvalidInputError.of(
                "window",
                f"without column{'s' * (len(absent) > 1)} {', '.join(absent)}",
                "every feature of the baseline",
            )
        return tuple(
            self._compare(each, columns[name]) for name, each in self.baseline.features.items()
        )

    def _outputs(self, columns: Mapping[str, pd.Series]) -> tuple[FeatureDrift, ...]:
        return tuple(
            self._compare(self.baseline.outputs.get(name) or _no_baseline(name, values), values)
            for name, values in columns.items()
        )

    def _compare(self, baseline: FeatureProfile, values: pd.Series) -> FeatureDrift:
        if self._rank_statistics:
            return compare_feature(baseline, values, self.thresholds)
        return judge_window(baseline, count_window(baseline, values), self.thresholds)


def create_drift_detector(
    baseline_data: Any,
    thresholds: Mapping[str, float] | Thresholds | None = None,
    features_to_monitor: Iterable[str] | None = None,
) -> DriftDetector:
    """The default factory of :class:`~secmon_dagster.drift.scheduler.DriftScheduler`."""
    return DriftDetector(baseline_data, thresholds, features_to_monitor)


def _no_baseline(name: str, values: pd.Series) -> FeatureProfile:
    """An output that was not profiled: it has a baseline of no rows, and says so."""
    kind = kind_of(values, name)
    return FeatureProfile(name, kind, kind, rows=0, missing=0)


def _false_discoveries(features: list[FeatureDrift]) -> list[FeatureDrift]:
    """Take back what is to be expected among so many features (Benjamini-Hochberg).

    PSI levels and missing shares are two families of tests.
    """
    q_values = _q_values([each.p_value for each in features])
    missing_q = _q_values([each.missing_p for each in features])
    tested = sum(q is not None for q in q_values)
    return [
        _discount(feature, q, q_of_missing, tested)
        for feature, q, q_of_missing in zip(features, q_values, missing_q, strict=True)
    ]


def _q_values(p_values: list[float | None]) -> list[float | None]:
    """Adjusted p-values in place; None stays None and does not count as a test."""
    adjusted = iter(benjamini_hochberg([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _discount(
    feature: FeatureDrift, q: float | None, missing_q: float | None, tested: int
) -> FeatureDrift:
    feature = replace(feature, q_value=q)
    if tested < 2:  # nothing to correct for: the gate alone decides
        return feature
    if feature.missing_level and missing_q is not None and missing_q > FALSE_DISCOVERY_RATE:
        feature = replace(feature, missing_level=AlertLevel.NORMAL)
    if feature.psi_level is None:
        return feature
    psi_level, reason = feature.psi_level, feature.reason
    if psi_level is not AlertLevel.NORMAL and q is not None and q > FALSE_DISCOVERY_RATE:
        psi_level = AlertLevel.NORMAL
        reason = f"PSI {feature.psi:.3f} is not significant among {tested} features (q = {q:.2f})"
    level = worst([psi_level, feature.missing_level])
    return replace(feature, psi_level=psi_level, level=level, reason=reason)


def _feature_level(feature: FeatureDrift, features: Sequence[FeatureDrift]) -> AlertLevel | None:
    """A feature's say in the check: one that lost all its values still says so, unless the whole
    window did."""
    if feature.level is None and any(each.sufficient for each in features):
        return feature.missing_level if feature.missing_level is not AlertLevel.NORMAL else None
    return feature.level


def _reason(features: Sequence[FeatureDrift]) -> str | None:
    unjudged = [each for each in features if not each.sufficient]
    if not unjudged:
        return None
    first = f"{unjudged[0].feature}: {unjudged[0].reason}"
    if len(unjudged) == 1 and len(features) == 1:
        return unjudged[0].reason
    return f"{len(unjudged)} of {len(features)} features could not be judged; {first}"
