"""Baselines as values: JSON, hashes, partitions, and ones that still grow."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.drift import BaselineProfile, DriftDetector, Thresholds, compare, profile
from secmon_dagster.drift.compare import count_window, judge_window
from secmon_dagster.drift.growing import GrowingBaseline
from secmon_dagster.errors import InvalidInputError
from tests.drift_data import frame


def test_a_profile_goes_to_json_and_back_without_loss() -> None:
    made = profile(frame(seed=1), outputs=np.linspace(0, 1, 2000))
    restored = BaselineProfile.from_json(json.loads(json.dumps(made.to_json())))
    assert restored.content_hash == made.content_hash
    current = frame(seed=2, shift=1.0)
    assert DriftDetector(restored).check(current) == DriftDetector(made).check(current)


def test_a_profile_that_was_changed_is_refused() -> None:
    body = profile(frame(seed=1)).to_json()
    body["features"][0]["missing"] += 1
    with pytest.raises(InvalidInputError, match="contents of another hash"):
        BaselineProfile.from_json(body)


def test_the_hash_changes_with_any_value_and_not_with_the_order_of_rows() -> None:
    data = frame(seed=1)
    assert profile(data.sample(frac=1, random_state=0)).content_hash == profile(data).content_hash
    changed = data.copy()
    changed.loc[0, "amount"] += 1e-9
    assert profile(changed).content_hash != profile(data).content_hash


def test_a_long_reference_is_thinned_and_says_so() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=300_000)
    feature = profile({"x": values}).features["x"]
    assert feature.numeric is not None
    assert (len(feature.numeric.ordered), feature.numeric.exact) == (100_000, False)
    assert feature.numeric.counts.tolist() == [30_000] * 10


@given(st.integers(1, 1999), st.floats(-1, 1))
def test_the_psi_of_a_window_is_that_of_its_partitions_added_up(split: int, shift: float) -> None:
    baseline = profile(frame(seed=1))
    window = frame(seed=2, shift=shift)
    for name, feature in baseline.features.items():
        whole = judge_window(feature, count_window(feature, window[name]), Thresholds())
        parts = [
            count_window(feature, part) for part in (window[name][:split], window[name][split:])
        ]
        assert judge_window(feature, parts[0] + parts[1], Thresholds()).psi == whole.psi


def test_a_growing_baseline_gives_nearly_the_exact_profile() -> None:
    whole = frame(60_000, seed=1)
    one, other = GrowingBaseline(), GrowingBaseline()
    for start in range(0, 30_000, 10_000):
        one.update(whole[start : start + 10_000])
        other.update(whole[start + 30_000 : start + 40_000])
    one.merge(other)
    frozen, exact = one.freeze(), profile(whole)
    assert frozen.rows == 60_000
    window = frame(3000, seed=2, shift=0.6)
    ours, theirs = DriftDetector(frozen).check(window), DriftDetector(exact).check(window)
    for found, expected in zip(ours.features, theirs.features, strict=True):
        assert found.psi == pytest.approx(expected.psi, abs=0.005)
        assert found.level is expected.level


def test_a_growing_baseline_refuses_a_batch_of_other_columns_whole() -> None:
    growing = GrowingBaseline()
    growing.update(frame(100))
    with pytest.raises(InvalidInputError, match="columns amount"):
        growing.update(frame(100)[["amount"]])
    with pytest.raises(InvalidInputError, match="allowed: numeric"):
        growing.update(frame(100).assign(amount="x"))
    assert growing.freeze().rows == 100


def test_a_growing_baseline_counts_what_is_missing() -> None:
    growing = GrowingBaseline()
    growing.update({"x": [1.0, np.nan, np.inf] * 40})
    growing.update({"x": pd.Series([2.0] * 60)})
    feature = growing.freeze().features["x"]
    assert (feature.rows, feature.missing) == (180, 80)
    assert feature.numeric is not None and feature.numeric.counts.sum() == 100


def test_comparing_without_ranks_gives_the_same_psi() -> None:
    reference, current = frame(seed=1), frame(seed=2, shift=0.5)
    quick = DriftDetector(reference, rank_statistics=False).check(current)
    for found in quick.features:
        assert found.psi == compare(reference[found.feature], current[found.feature]).psi
        assert found.ks is None and found.chi2_p is not None
