"""One feature against its baseline: all statistics, and what they amount to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from secmon_dagster.drift.columns import CategoricalColumn, as_series, kind_of, read_categorical
from secmon_dagster.drift.dispersion import clustering
from secmon_dagster.drift.levels import Thresholds, Verdict, judge_missing, judge_psi
from secmon_dagster.drift.profile import (
    FeatureProfile,
    NumericCells,
    category_codes,
    cell_codes,
    profile_feature,
    read_ordered,
)
from secmon_dagster.drift.statistics import (
    chi2_contingency_p,
    count_cells,
    cramers_v,
    js_distance,
    kl_divergence,
    ks_p_value,
    ks_statistic,
    two_proportion_p,
    wasserstein,
)
from secmon_dagster.drift.vocabulary import AlertLevel, FeatureKind, worst
from secmon_dagster.errors import InvalidInputError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureDrift:
    """What became of one feature. A statistic that does not apply or can't be had is None.

    ``level`` is the worse of the PSI's and the missing share's; None where the rows do not suffice
    for a statement (then ``sufficient`` is False and ``reason`` says why, never a silent NORMAL).
    """

    feature: str
    kind: FeatureKind
    rows_reference: int
    rows_current: int
    psi: float | None = None
    psi_gate: float | None = None
    kl_ref_cur: float | None = None
    kl_cur_ref: float | None = None
    js: float | None = None
    ks: float | None = None
    ks_p: float | None = None
    wasserstein: float | None = None
    wasserstein_scaled: float | None = None
    chi2_p: float | None = None
    cramers_v: float | None = None
    missing_reference: float | None = None
    missing_current: float | None = None
    missing_p: float | None = None
    missing_level: AlertLevel | None = None
    unseen_share: float | None = None
    psi_level: AlertLevel | None = None
    level: AlertLevel | None = None
    sufficient: bool = False
    reason: str | None = None
    dispersion: float | None = None
    dispersion_p: float | None = None
    q_value: float | None = None
    cells_reference: tuple[int, ...] = ()
    cells_current: tuple[int, ...] = ()

    @property
    def p_value(self) -> float | None:
        """The p-value that enters the false-discovery rate: KS for numbers, else chi-squared; of
        a stream whose rows are alike, the one that allows for it."""
        if self.dispersion_p is not None:
            return self.dispersion_p
        return self.chi2_p if self.ks_p is None else self.ks_p

    def to_dict(self) -> dict[str, Any]:
        """JSON types: numbers, counts and levels, never a feature's values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class WindowCounts:
    """A window's rows per cell of a baseline feature: integers that add up over partitions.

    ``unseen`` are current categories the baseline does not have, with their rows. ``clustering``
    is how alike the window's neighbouring rows are, where the baseline's are; not known of a sum.
    """

    rows: int
    missing: int
    counts: Counts
    unseen: dict[str, int]
    clustering: float | None = None

    def __add__(self, other: WindowCounts) -> WindowCounts:
        unseen = dict(self.unseen)
        for category, count in other.unseen.items():
            unseen[category] = unseen.get(category, 0) + count
        return WindowCounts(
            self.rows + other.rows, self.missing + other.missing, self.counts + other.counts, unseen
        )

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.rows - self.missing


def compare(
    reference: Any,
    current: Any,
    kind: Literal["numeric", "categorical", "datetime"] | FeatureKind | None = None,
    *,
    thresholds: Thresholds | dict[str, float] | None = None,
    feature: str = "feature",
) -> FeatureDrift:
    """Compare two columns of one feature.

    Args:
        reference: Values of the reference, one-dimensional.
        current: Values of the current window, one-dimensional.
        kind: ``"numeric"``, ``"categorical"`` or ``"datetime"``; None infers it from the reference.
        thresholds: Where levels begin; see :class:`~secmon_dagster.drift.levels.Thresholds`.
        feature: The name used in messages.

    Raises:
        InvalidInputError: if a column can't be read as that kind.

    >>> drift = compare(range(1000), range(500, 1500))
    >>> drift.level, round(drift.psi, 2), drift.ks
    (<AlertLevel.CRITICAL: 'CRITICAL'>, 4.35, 0.5)
    """
    try:
        read_as = None if kind is None else FeatureKind(kind)
    except ValueError:
        raise InvalidInputError.of("kind", kind, "numeric, categorical, datetime or None") from None
    baseline = profile_feature(as_series(reference, f"{feature} (reference)"), feature, read_as)
    return compare_feature(
        baseline, as_series(current, f"{feature} (current)"), Thresholds.of(thresholds)
    )


def compare_feature(
    baseline: FeatureProfile, current: pd.Series, thresholds: Thresholds
) -> FeatureDrift:
    """Compare a window's column with its baseline; one sort, all statistics exact.

    Raises:
        InvalidInputError: if the column is of another kind than the baseline's.
    """
    _same_kind(baseline, current)
    if baseline.read_as is FeatureKind.CATEGORICAL:
        return judge_window(baseline, count_window(baseline, current), thresholds)
    column = read_ordered(current, baseline.feature, baseline.read_as)
    if baseline.numeric is None or len(column.values) == 0:
        window = WindowCounts(len(current), column.missing, np.zeros(0, dtype=np.int64), {})
        return judge_window(baseline, window, thresholds)
    ordered = np.sort(column.values)
    counts = count_cells(ordered, baseline.numeric.cuts, ordered=True)
    window = WindowCounts(
        len(current), column.missing, counts, {}, _clustering(baseline, column.values)
    )
    return judge_window(baseline, window, thresholds, ordered)


def _clustering(baseline: FeatureProfile, values: Floats) -> float | None:
    """How alike a window's neighbours are; asked only where the baseline's are."""
    if baseline.dispersion is None or baseline.numeric is None:
        return None
    return clustering(cell_codes(values, baseline.numeric.cuts))


def _same_kind(baseline: FeatureProfile, current: pd.Series) -> None:
    if len(current) == 0 or current.isna().all():
        return
    kind = kind_of(current, baseline.feature)
    if kind is not baseline.kind and baseline.present:
        raise InvalidInputError.of(
            f"{baseline.feature} in the current window",
            f"a {kind} column",
            f"{baseline.kind}, as in the baseline",
        )


def count_window(baseline: FeatureProfile, current: pd.Series) -> WindowCounts:
    """Rows per cell of the baseline, without a sort: what PSI, KL and JS need, and all they need.

    Raises:
        InvalidInputError: if the column is of another kind than the baseline's.
    """
    _same_kind(baseline, current)
    if baseline.read_as is FeatureKind.CATEGORICAL:
        counted = _count_categories(baseline, read_categorical(current, baseline.feature))
        if baseline.dispersion is None:
            return counted
        return replace(counted, clustering=clustering(category_codes(current)))
    column = read_ordered(current, baseline.feature, baseline.read_as)
    cuts = baseline.numeric.cuts if baseline.numeric is not None else np.zeros(0)
    return WindowCounts(
        len(current),
        column.missing,
        count_cells(column.values, cuts),
        {},
        _clustering(baseline, column.values),
    )


def _count_categories(baseline: FeatureProfile, column: CategoricalColumn) -> WindowCounts:
    known = np.array([column.counts.get(name, 0) for name in baseline.categories], dtype=np.int64)
    unseen = {
        name: count for name, count in column.counts.items() if name not in baseline.categories
    }
    return WindowCounts(column.rows, column.missing, known, unseen)


def judge_window(
    baseline: FeatureProfile,
    window: WindowCounts,
    thresholds: Thresholds,
    ordered: Floats | None = None,
) -> FeatureDrift:
    """All statistics that a window's counts allow, and with its sorted values the others too."""
    base: dict[str, Any] = {
        "feature": baseline.feature,
        "kind": baseline.read_as,
        "rows_reference": baseline.rows,
        "rows_current": window.rows,
        **_missing(baseline, window, thresholds),
    }
    if reason := _too_few(baseline, window, thresholds):
        return FeatureDrift(**base, reason=reason)
    reference, current = _cells(baseline, window)
    dispersion = baseline.dispersion
    if dispersion is not None and not dispersion.applies(window.clustering, window.present):
        dispersion = None
    verdict = judge_psi(reference, current, thresholds, dispersion)
    statistics: dict[str, Any] = {
        "psi": verdict.psi,
        "psi_gate": verdict.gate,
        "kl_ref_cur": kl_divergence(reference, current),
        "kl_cur_ref": kl_divergence(current, reference),
        "js": js_distance(reference, current),
        "cells_reference": tuple(reference.tolist()),
        "cells_current": tuple(current.tolist()),
        "dispersion": None if dispersion is None else dispersion.ratio(window.present),
        "dispersion_p": verdict.p,
    }
    if baseline.read_as is FeatureKind.CATEGORICAL:
        statistics["chi2_p"] = chi2_contingency_p(reference, current)
        statistics["cramers_v"] = cramers_v(reference, current)
        statistics["unseen_share"] = sum(window.unseen.values()) / window.present
    elif ordered is not None and baseline.numeric is not None:
        statistics |= _rank_statistics(baseline.numeric, baseline.present, ordered)
    else:
        # Without ranks there is no KS test; the cells have Pearson's.
        statistics["chi2_p"] = chi2_contingency_p(reference, current)
    return FeatureDrift(**base, **statistics, **_level(verdict, base["missing_level"]))


def _level(verdict: Verdict, missing: AlertLevel | None) -> dict[str, Any]:
    return {
        "psi_level": verdict.level,
        "level": None if verdict.level is None else worst([verdict.level, missing]),
        "sufficient": verdict.level is not None,
        "reason": verdict.reason,
    }


def _cells(baseline: FeatureProfile, window: WindowCounts) -> tuple[Counts, Counts]:
    """Both count vectors on the union of the cells."""
    if baseline.numeric is not None:
        return baseline.numeric.counts, window.counts
    known = np.array(list(baseline.categories.values()), dtype=np.int64)
    # In one order, so that windows added up in any order give the very same sums.
    unseen = np.array([count for _, count in sorted(window.unseen.items())], dtype=np.int64)
    return (
        np.concatenate([known, np.zeros(len(unseen), dtype=np.int64)]),
        np.concatenate([window.counts, unseen]),
    )


def _rank_statistics(baseline: NumericCells, rows: int, ordered: Floats) -> dict[str, Any]:
    distance = wasserstein(baseline.ordered, ordered)
    statistic = ks_statistic(baseline.ordered, ordered)
    return {
        "ks": statistic,
        "ks_p": ks_p_value(statistic, baseline.ordered, ordered, rows),
        "wasserstein": distance,
        "wasserstein_scaled": None if baseline.scale is None else distance / baseline.scale,
    }


def _missing(
    baseline: FeatureProfile, window: WindowCounts, thresholds: Thresholds
) -> dict[str, Any]:
    if baseline.rows == 0 or window.rows == 0:
        return {"missing_level": None}
    before, now = baseline.missing / baseline.rows, window.missing / window.rows
    p = two_proportion_p(baseline.missing, baseline.rows, window.missing, window.rows)
    return {
        "missing_reference": before,
        "missing_current": now,
        "missing_p": p,
        "missing_level": judge_missing(now - before, p, thresholds),
    }


def _too_few(baseline: FeatureProfile, window: WindowCounts, thresholds: Thresholds) -> str | None:
    for whose, rows, present in (
        ("baseline", baseline.rows, baseline.present),
        ("current window", window.rows, window.present),
    ):
        if rows == 0:
            return f"the {whose} is empty"
        if present == 0:
            return f"all {rows} rows of the {whose} are missing a value"
        if present < thresholds.min_rows:
            return (
                f"the {whose} has {present} rows with a value; at least {thresholds.min_rows} "
                "are needed"
            )
    return None
