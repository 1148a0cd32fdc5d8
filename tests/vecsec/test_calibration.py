"""Thresholds keep their promise about false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.calibration import conformal_threshold


def test_the_true_rate_stays_under_the_wanted_one_nine_times_in_ten() -> None:
    rng = np.random.default_rng(0)
    # For uniform scores the true false-alarm rate above t is exactly 1 - t.
    rates = [1 - conformal_threshold(rng.random(1000), 0.05).value for _ in range(500)]
    assert 0.87 <= np.mean(np.array(rates) <= 0.05) <= 0.94


def test_with_too_few_scores_the_tail_is_extended_and_that_is_said() -> None:
    scores = np.random.default_rng(1).exponential(size=100)
    found = conformal_threshold(scores, 0.01)
    assert found.extrapolated
    assert found.value > scores.max()


def test_extended_tails_of_exponential_scores_keep_the_rate_too() -> None:
    rng = np.random.default_rng(2)
    rates = [np.exp(-conformal_threshold(rng.exponential(size=100)).value) for _ in range(300)]
    assert np.mean(np.array(rates) <= 0.01) >= 0.85


@given(st.integers(20, 600), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
@settings(max_examples=30)
def test_a_stricter_rate_never_lowers_the_threshold(size: int, rate: float) -> None:
    scores = np.random.default_rng(size).normal(size=size)
    strict, loose = conformal_threshold(scores, rate), conformal_threshold(scores, rate * 2)
    assert strict.value >= loose.value or strict.extrapolated != loose.extrapolated


@pytest.mark.parametrize("scores", [[], [0.0] * 19, [float("nan")] * 30])
def test_too_few_or_broken_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="at least 20"):
        conformal_threshold(scores)


@pytest.mark.parametrize("rate", [0.0, -1.0, 0.6])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInputError, match="rate is"):
        conformal_threshold([0.0] * 30, rate)
