"""Outcomes of a window: performance with and without labels, gaps by stratum, the inference log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from secmon_dagster.drift import AlertLevel, SafetyEvent, SafetySeverity
from secmon_dagster.drift.inference_log import log_inferences, log_labels, read_inferences
from secmon_dagster.drift.outcomes import (
    OutcomeBaseline,
    OutcomeColumns,
    judge_outcomes,
    profile_outcomes,
)
from secmon_dagster.drift.windows import WindowSource, cut, safety_events
from secmon_dagster.errors import DriftError, InvalidInputError
from tests.drift_data import scored

COLUMNS = OutcomeColumns(score="score", label="churned", strata=("group",))
NORMAL, CRITICAL = AlertLevel.NORMAL, AlertLevel.CRITICAL


@pytest.fixture(scope="module")
def baseline() -> OutcomeBaseline:
    return profile_outcomes(scored(20_000, seed=1), COLUMNS)


def levels(metrics: list[Any]) -> set[AlertLevel | None]:
    return {metric.level for metric in metrics}


def test_labels_that_arrived_are_what_performance_is_measured_on(baseline: OutcomeBaseline) -> None:
    same, _ = judge_outcomes(baseline, scored(4000, seed=2))
    assert [metric.name for metric in same] == ["roc_auc", "accuracy"]
    assert levels(same) == {NORMAL}
    turned = scored(4000, seed=3)
    turned["churned"] = 1 - turned["churned"]  # what the model learned is not so any more
    assert levels(judge_outcomes(baseline, turned)[0]) == {CRITICAL}


def test_without_labels_performance_is_estimated_within_a_hundredth(
    baseline: OutcomeBaseline,
) -> None:
    for blur in (1.0, 0.4):  # scores nearer to a half: rows the model is less sure of
        window = scored(20_000, seed=4, blur=blur)
        truth, _ = judge_outcomes(baseline, window)
        guess, _ = judge_outcomes(baseline, window.drop(columns="churned"))
        assert [metric.name for metric in guess] == ["roc_auc_estimated", "accuracy_estimated"]
        for known, estimate in zip(truth, guess, strict=True):
            assert estimate.details["current"] == pytest.approx(known.details["current"], abs=0.01)
    assert levels(guess) == {CRITICAL}


def test_a_few_labels_are_not_enough_to_measure_on(baseline: OutcomeBaseline) -> None:
    window = scored(4000, seed=5)
    window.loc[20:, "churned"] = np.nan
    assert judge_outcomes(baseline, window)[0][0].name == "roc_auc_estimated"
    window = scored(4000, seed=5)
    window.loc[2000:, "churned"] = np.nan
    assert judge_outcomes(baseline, window)[0][0].details["rows"] == 2000


def test_a_group_that_is_selected_less_than_before_is_a_gap(baseline: OutcomeBaseline) -> None:
    assert levels(judge_outcomes(baseline, scored(4000, seed=6))[1]) == {NORMAL}
    window = scored(4000, seed=7)
    window.loc[window["group"] == "b", "score"] *= 0.6
    found = judge_outcomes(baseline, window)[1]
    assert {metric.stratum_type for metric in found} == {"group"}
    assert CRITICAL in levels(found)


def test_many_strata_raise_no_more_false_alarms_than_few() -> None:
    columns = OutcomeColumns(score="score", strata=("region",))
    before = profile_outcomes(scored(40_000, seed=8), columns)
    alarms = 0
    for seed in range(100, 140):
        found = judge_outcomes(before, scored(2500, seed=seed), {"min_stratum": 50})[1]
        assert len(found) == 12
        alarms += not levels(found) <= {NORMAL}
    assert alarms <= 4


def test_a_stored_baseline_of_outcomes_judges_the_same(baseline: OutcomeBaseline) -> None:
    restored = OutcomeBaseline.from_json(baseline.to_json())
    window = scored(1000, seed=9)
    assert judge_outcomes(restored, window) == judge_outcomes(baseline, window)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"label": "churned"}, "neither score nor prediction"),
        ({"score": "score"}, "neither label nor strata"),
        ({"score": "a", "label": "a"}, "one column in two roles"),
        ({"scores": "a"}, "columns is 'scores'"),
    ],
)
def test_columns_that_say_nothing_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        OutcomeColumns.of(given)


@pytest.mark.parametrize(
    ("change", "columns", "error", "sentence"),
    [
        (lambda t: t.drop(columns="score"), COLUMNS, DriftError, "no column score"),
        (lambda t: t.drop(columns="group"), COLUMNS, DriftError, "no column group"),
        (lambda t: t.assign(churned=np.nan), COLUMNS, DriftError, "no row of the reference has a"),
        (lambda t: t.assign(churned="1"), COLUMNS, InvalidInputError, "both classes"),
        (lambda t: t.assign(score="high"), COLUMNS, InvalidInputError, "numbers only"),
        (
            lambda t: t.assign(answer="stay"),
            OutcomeColumns(prediction="answer", positive="leave", strata=("group",)),
            DriftError,
            "no row of the reference has 'leave' in answer",
        ),
    ],
)
def test_a_reference_without_its_outcomes_is_refused_by_name(
    change: Any, columns: OutcomeColumns, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        profile_outcomes(change(scored(200, seed=1)), columns)


def test_safety_events_are_counted_by_kind_and_carry_no_text() -> None:
    rows = pd.DataFrame(
        {
            "event_type": ["leak", "leak", "insult"],
            "severity": ["high", "high", "low"],
            "count": [2, 1, 5],
            "prompt": ["a secret"] * 3,
        }
    )
    assert safety_events(rows) == (
        SafetyEvent("insult", SafetySeverity.LOW, count=5),
        SafetyEvent("leak", SafetySeverity.HIGH, count=3),
    )
    assert safety_events(rows.iloc[:0]) == ()
    for wrong, sentence in [
        (rows.drop(columns="severity"), "no column severity"),
        (rows.assign(severity="awful"), "another severity"),
    ]:
        with pytest.raises(DriftError, match=sentence):
            safety_events(wrong)


def test_a_window_of_tables_put_together_holds_each_row_once_in_the_order_of_time() -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    parts = [
        pd.DataFrame({"at": [noon + timedelta(hours=h) for h in hours], "x": hours})
        for hours in ([-1, -3, 2], [-2, -30, -4])
    ]
    source = WindowSource.of({"path": "rows.csv", "time_column": "at", "hours": 24})
    assert cut(pd.concat(parts), source, noon)["x"].tolist() == [-4, -3, -2, -1]


def test_what_numpy_models_answer_is_logged_and_infinities_are_missing(database: Any) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    rows = pd.DataFrame({"age": [30.0, np.inf, np.nan], "visits": np.array([1, 2, 3], "int32")})
    log_inferences("churn", "2", rows, np.array([0, 1, 1]), ids=["a", "b", "c"], at=noon)
    log_inferences("churn", "2", rows, np.array([0.5, np.nan, -np.inf]), at=noon)
    log_labels("churn", {"a": np.int64(1), "b": np.bool_(True)})
    window = read_inferences("churn", "2", WindowSource.of({"inference_log": True}), noon)
    assert window["age"].isna().tolist() == [False, True, True] * 2
    assert window["prediction"].tolist()[:4] == [0, 1, 1, 0.5]
    assert window["prediction"].isna().tolist()[4:] == [True, True]
    assert window["label"].tolist()[:2] == [1, True]
    with pytest.raises(InvalidInputError, match="born is 'a Timestamp'"):
        log_inferences("churn", "2", pd.DataFrame({"born": [pd.Timestamp("2000-01-01")]}))


def test_labels_are_added_to_what_was_logged_and_windows_are_the_last_hours(database: Any) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    rows = pd.DataFrame({"age": [30.0, None, 50.0], "channel": ["web", "shop", "web"]})
    log_inferences("churn", "2", rows, [0.1, 0.8, 0.3], ids=["a", "b", "c"], at=noon)
    log_inferences("churn", "2", rows, at=noon - timedelta(hours=30))
    log_inferences("churn", "1", rows, at=noon)
    assert log_labels("churn", {"a": 0, "b": 1, "never": 1}) == 2
    day = WindowSource.of({"inference_log": True, "hours": 24})
    window = read_inferences("churn", "2", day, noon)
    assert window["prediction"].tolist() == [0.1, 0.8, 0.3]
    assert window["age"].isna().tolist() == [False, True, False]
    assert window["label"].tolist()[:2] == [0, 1] and pd.isna(window["label"][2])
    assert len(read_inferences("churn", "2", WindowSource.of({"inference_log": True}), noon)) == 6
    with pytest.raises(DriftError, match="has no rows in this window"):
        read_inferences("churn", "2", day, noon + timedelta(days=3))
    with pytest.raises(InvalidInputError, match="predictions is 1; allowed: 3"):
        log_inferences("churn", "2", rows, [0.5])
