"""One feature compared: what each kind of column gives, and what bad columns give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from secmon_dagster.drift import AlertLevel, DriftDetector, FeatureDrift, compare
from secmon_dagster.errors import InvalidInputError


def normal(rows: int, *, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, rows)


def test_a_numeric_feature_has_all_statistics_but_the_categorical_ones() -> None:
    reference, current = normal(5000), normal(3000, seed=1, mean=0.6)
    drift = compare(reference, current, "numeric")
    assert drift.level is AlertLevel.CRITICAL and drift.sufficient and drift.reason is None
    theirs = stats.ks_2samp(reference, current)
    assert (drift.ks, drift.ks_p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)
    assert drift.wasserstein == pytest.approx(stats.wasserstein_distance(reference, current))
    scale = stats.iqr(reference) / 1.349
    assert drift.wasserstein_scaled == pytest.approx(drift.wasserstein / scale)
    assert drift.chi2_p is None and drift.cramers_v is None and drift.unseen_share is None
    assert drift.psi is not None and drift.kl_ref_cur is not None and drift.kl_cur_ref is not None


def test_a_categorical_feature_reports_categories_the_reference_never_had() -> None:
    reference = ["a"] * 600 + ["b"] * 400
    drift = compare(reference, ["a"] * 500 + ["new"] * 500)
    assert drift.kind == "categorical"
    assert drift.unseen_share == 0.5
    assert drift.level is AlertLevel.CRITICAL
    assert drift.ks is None and drift.wasserstein is None
    assert drift.chi2_p is not None and drift.chi2_p < 1e-9


def test_booleans_are_categories_and_missing_ones_are_counted() -> None:
    drift = compare([True] * 50 + [False] * 50, [True] * 80 + [False] * 10 + [None] * 10)
    assert drift.kind == "categorical"
    assert drift.missing_current == pytest.approx(0.1)


def test_whole_numbers_declared_categories_stay_the_same_when_a_hole_makes_them_floats() -> None:
    drift = compare([1, 2] * 100, [1.0, 2.0, np.nan] * 100, "categorical")
    assert drift.unseen_share == 0
    assert drift.psi == 0


def test_instants_in_several_zones_are_the_same_instants() -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    reference = [start + timedelta(hours=hour) for hour in range(200)]
    tokyo = timezone(timedelta(hours=9))
    current = [
        moment.astimezone(tokyo if index % 2 else UTC) for index, moment in enumerate(reference)
    ]
    drift = compare(reference, pd.Series(current, dtype=object))
    assert (drift.kind, drift.psi, drift.ks) == ("datetime", 0, 0)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_a_fifth_of_the_values_missing_is_a_finding_of_its_own(hole: float) -> None:
    current = normal(2000, seed=1)
    current[:400] = hole
    drift = compare(normal(5000), current)
    assert drift.psi is not None and drift.psi < 0.1
    assert (drift.missing_reference, drift.missing_current) == (0, 0.2)
    assert drift.level is AlertLevel.CRITICAL


@pytest.mark.parametrize(
    ("reference", "current", "reason"),
    [
        (normal(1000), [], "the current window is empty"),
        ([], normal(1000), "the baseline is empty"),
        (normal(1000), [np.nan] * 500, "all 500 rows of the current window are missing a value"),
        ([None] * 40, normal(1000), "all 40 rows of the baseline are missing a value"),
        (normal(1000), [1.0], "the current window has 1 rows with a value"),
        ([3.0] * 29, normal(1000), "the baseline has 29 rows with a value"),
        (["a", "b"] * 100, [None] * 50, "all 50 rows of the current window are missing a value"),
        (
            [f"c{i}" for i in range(10_000)],
            [f"c{i}" for i in range(1_000)],
            "10000 cells are too many for 1000 current rows",
        ),
    ],
)
def test_what_cannot_be_judged_has_no_level_and_says_why(
    reference: Any, current: Any, reason: str
) -> None:
    drift = compare(reference, current)
    assert drift.level is None and not drift.sufficient
    assert drift.reason is not None and reason in drift.reason


def test_a_constant_feature_that_stays_is_normal_and_one_that_moves_is_critical() -> None:
    assert compare([5.0] * 500, [5.0] * 200).level is AlertLevel.NORMAL
    moved = compare([5.0] * 500, [5.1] * 200)
    assert moved.level is AlertLevel.CRITICAL
    assert moved.wasserstein == pytest.approx(0.1) and moved.wasserstein_scaled is None


def test_a_scale_of_a_hundred_thousandth_is_measured_in_its_own_unit() -> None:
    drift = compare(normal(5000) * 1e-5, (normal(5000, seed=1) + 1) * 1e-5)
    assert drift.wasserstein_scaled == pytest.approx(1.0, abs=0.08)


def test_levels_begin_at_their_threshold_inclusive() -> None:
    drift = compare(normal(20_000), normal(20_000, seed=1, mean=0.4))
    assert drift.psi is not None
    exactly = compare(
        normal(20_000), normal(20_000, seed=1, mean=0.4), thresholds={"psi_critical": drift.psi}
    )
    assert exactly.level is AlertLevel.CRITICAL


def test_a_psi_that_chance_explains_is_not_raised() -> None:
    raised = [
        drift
        for seed in range(60)
        if (drift := compare(normal(10_000), normal(100, seed=seed + 1))).psi is not None
        and drift.psi >= 0.1
    ]
    assert len(raised) > 10  # the plain threshold would alarm about 40 % of the time
    alarms = [drift for drift in raised if drift.level is not AlertLevel.NORMAL]
    assert len(alarms) <= 5
    assert all(
        drift.reason and "reach by chance" in drift.reason
        for drift in raised
        if drift.level is AlertLevel.NORMAL
    )


@pytest.mark.parametrize(
    ("reference", "current", "kind", "sentence"),
    [
        (normal(100), ["x"] * 100, None, "allowed: numeric, as in the baseline"),
        ([1, "two", 3], [1, 2, 3], None, "2 numbers, 1 texts"),
        (["1", "b"] * 50, ["1", "b"] * 50, "numeric", "allowed: numbers only"),
        (normal(100), normal(100), "ordinal", "kind is 'ordinal'"),
        ([1 + 2j], [1.0], None, "complex"),
        ([{"a": 1}], [{"a": 1}], None, "neither numbers, text, booleans nor times"),
        (np.zeros((2, 2)), [1.0], None, "one dimension"),
        ([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)], [], None, "time zone"),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_in_one_sentence(
    reference: Any, current: Any, kind: Any, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        compare(reference, current, kind)


def test_columns_the_baseline_never_had_are_named_and_not_judged() -> None:
    report = DriftDetector({"x": normal(500)}).check({"x": normal(500, seed=1), "y": ["a"] * 500})
    assert report.extra_columns == ("y",)
    assert [each.feature for each in report.features] == ["x"]


def test_too_many_categories_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="allowed: at most 50000"):
        compare([f"id{i}" for i in range(50_001)], ["id1"])


def test_thresholds_that_cannot_be_are_refused() -> None:
    for given, sentence in [
        ({"psi": 0.1}, "thresholds is 'psi'"),
        ({"psi_warning": 0.3}, "psi_critical is 0.25; allowed: at least psi_warning"),
        ({"psi_warning": 0}, "psi_warning is 0"),
        ({"psi_warning": "high"}, "allowed: a number"),
    ]:
        with pytest.raises(InvalidInputError, match=sentence):
            compare([1.0], [1.0], thresholds=given)  # type: ignore[arg-type]


def test_a_result_names_every_field_of_the_contract() -> None:
    contract = (
        "psi kl_ref_cur kl_cur_ref js ks ks_p wasserstein wasserstein_scaled chi2_p cramers_v "
        "missing_reference missing_current unseen_share level sufficient reason"
    )
    assert set(contract.split()) <= set(FeatureDrift.__dataclass_fields__)
