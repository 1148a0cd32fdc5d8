"""Performance with and without labels, and fairness gaps by stratum."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from secmon_dagster.drift import AlertLevel, DriftDetector, SafetyEvent, SafetySeverity, profile
from secmon_dagster.drift.bias import Gap, bias_drift, gaps, wilson
from secmon_dagster.drift.performance import (
    Calibration,
    estimated,
    measured,
    performance_drift,
    roc_auc,
)
from secmon_dagster.errors import InvalidInputError
from tests.drift_data import frame


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out features, scores and labels of a model that is right most of the time."""
    features, labels = make_classification(
        30_000, n_features=12, n_informative=6, class_sep=0.7, flip_y=0.1, random_state=4
    )
    model = GradientBoostingClassifier(n_estimators=40, random_state=0).fit(
        features[:6000], labels[:6000]
    )
    return features[6000:], model.predict_proba(features[6000:])[:, 1], labels[6000:]


def test_the_area_is_scikit_learns(scored: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, scores, labels = scored
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), rel=1e-9)
    rounded = np.round(scores, 1)
    assert roc_auc(rounded, labels) == pytest.approx(roc_auc_score(labels, rounded), rel=1e-9)


def test_the_area_without_labels_is_within_a_hundredth_of_the_truth_as_the_inputs_shift(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, scores, labels = scored
    calibration = Calibration.fit(scores[:8000], labels[:8000])
    held = slice(8000, None)
    hardness = np.abs(scores[held] - 0.5)
    rng = np.random.default_rng(0)
    for weight in (0.0, 2.0, 5.0):  # towards rows the model is unsure of
        chance = np.exp(-weight * hardness)
        rows = rng.choice(len(hardness), 8000, p=chance / chance.sum())
        truth = roc_auc_score(labels[held][rows], scores[held][rows])
        guess = estimated(scores[held][rows], calibration).roc_auc
        assert guess == pytest.approx(truth, abs=0.01)


def test_a_fall_of_performance_is_judged_and_one_of_few_rows_is_not(
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, scores, labels = scored
    before = measured(scores[:8000], labels[:8000])
    noisy = np.where(np.random.default_rng(1).random(4000) < 0.4, 1 - labels[8000:12_000],
                     labels[8000:12_000])  # fmt: skip
    area, accuracy = performance_drift(before, measured(scores[8000:12_000], noisy))
    assert (area.level, accuracy.level) == (AlertLevel.CRITICAL, AlertLevel.CRITICAL)
    same = performance_drift(before, measured(scores[12_000:16_000], labels[12_000:16_000]))
    assert [metric.level for metric in same] == [AlertLevel.NORMAL, AlertLevel.NORMAL]
    few = performance_drift(before, measured(scores[:10], labels[:10]))
    assert [metric.level for metric in few] == [None, None]


@pytest.mark.parametrize(
    ("scores", "labels", "sentence"),
    [
        ([0.1, np.nan], [0, 1], "1 missing values"),
        ([0.1, 0.2], [0], "1 rows"),
        ([0.1, 0.2], [0, 2], "0 and 1"),
        ([], [], "at least one"),
        ([0.1, 0.2], [1, 1], "both classes"),
    ],
)
def test_scores_and_labels_that_cannot_be_are_refused(
    scores: list[float], labels: list[int], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        Calibration.fit(scores, labels)


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (3, 10), (10, 10), (56, 70)])
def test_the_interval_of_a_share_is_wilsons(hits: int, rows: int) -> None:
    theirs = binomtest(hits, rows).proportion_ci(method="wilson")
    assert wilson(hits, rows) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def population(rows: int, rates: dict[str, float], seed: int = 0) -> tuple[pd.Series, pd.Series]:
    rng = np.random.default_rng(seed)
    strata = pd.Series(rng.choice(list(rates), rows))
    return pd.Series((rng.random(rows) < strata.map(rates)).astype(int)), strata


def test_a_gap_that_grew_is_raised_and_one_that_stayed_is_not() -> None:
    before = gaps(*population(20_000, {"a": 0.50, "b": 0.48}))
    grown = bias_drift(before, gaps(*population(20_000, {"a": 0.50, "b": 0.30}, 1)), "GROUP")
    assert {metric.level for metric in grown} == {AlertLevel.CRITICAL}
    assert all(metric.low is not None and metric.low * metric.high > 0 for metric in grown)
    stayed = bias_drift(before, gaps(*population(20_000, {"a": 0.50, "b": 0.48}, 2)), "GROUP")
    assert {metric.level for metric in stayed} == {AlertLevel.NORMAL}


def test_a_gap_that_shrank_is_no_alarm() -> None:
    before = gaps(*population(20_000, {"a": 0.50, "b": 0.30}))
    now = gaps(*population(20_000, {"a": 0.50, "b": 0.50}, 1))
    assert {metric.level for metric in bias_drift(before, now, "GROUP")} == {AlertLevel.NORMAL}


def test_a_stratum_of_one_person_is_named_and_not_judged() -> None:
    before = [Gap("demographic_parity_gap", "rare", 1, 1, 500, 1000)]
    now = [Gap("demographic_parity_gap", "rare", 0, 1, 500, 1000)]
    (metric,) = bias_drift(before, now, "RACE")
    assert metric.level is None
    assert metric.reason is not None and "at least 100 are needed" in metric.reason


def test_a_change_that_chance_explains_is_normal_and_says_so() -> None:
    before = [Gap("demographic_parity_gap", "b", 50, 100, 500, 1000)]
    now = [Gap("demographic_parity_gap", "b", 58, 100, 500, 1000)]
    (metric,) = bias_drift(before, now, "GROUP")
    assert metric.level is AlertLevel.NORMAL
    assert metric.reason is not None and "chance explains" in metric.reason


def test_equal_opportunity_counts_only_rows_whose_label_is_positive() -> None:
    found = gaps([1, 0, 1, 1], ["a", "a", "b", "b"], [1, 1, 1, 0])
    opportunity = {g.stratum_value: g for g in found if g.metric_name == "equal_opportunity_gap"}
    assert (opportunity["a"].hits, opportunity["a"].rows) == (1, 2)
    assert opportunity["a"].value == pytest.approx(-0.5)


def test_gaps_of_partitions_add_up() -> None:
    predictions, strata = population(1000, {"a": 0.5, "b": 0.4})
    whole = gaps(predictions, strata)
    first, second = (gaps(predictions[s], strata[s]) for s in (slice(0, 300), slice(300, None)))
    assert [one + other for one, other in zip(first, second, strict=True)] == whole


def test_bias_data_that_cannot_be_is_refused() -> None:
    detector = DriftDetector(frame())
    with pytest.raises(InvalidInputError, match="without stratum_value"):
        detector.check(
            bias_data=[{"metric_name": "x", "stratum_type": "y", "baseline_value": 0,
                        "current_value": 0}]
        )  # fmt: skip


def test_a_shift_of_scores_or_of_predicted_classes_is_output_drift() -> None:
    rng = np.random.default_rng(0)
    baseline = frame(seed=1)

    made = profile(
        baseline, outputs={"score": rng.random(2000), "label": rng.choice(["y", "n"], 2000)}
    )
    now = {"score": rng.random(2000) ** 3, "label": ["y"] * 2000}
    report = DriftDetector(made).check(frame(seed=2), output_data=now)
    assert [each.level for each in report.outputs] == [AlertLevel.CRITICAL] * 2
    assert {each.level for each in report.features} == {AlertLevel.NORMAL}
    assert report.level is AlertLevel.CRITICAL


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (SafetySeverity.LOW, "NORMAL"),
        (SafetySeverity.MEDIUM, "WARNING"),
        (SafetySeverity.HIGH, "CRITICAL"),
        (SafetySeverity.CRITICAL, "CRITICAL"),
    ],
)
def test_a_safety_event_raises_the_check_by_its_severity(
    severity: SafetySeverity, level: str
) -> None:
    event = SafetyEvent("harmful_output", severity, count=3)
    report = DriftDetector(frame(seed=1)).check(frame(seed=2), safety_events=[event])
    assert report.overall_status == level
    assert report.summary()["safety_event_count"] == 3
