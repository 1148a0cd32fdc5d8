"""Baselines as values: JSON, hashes, partitions, and ones that still grow."""

from __future__ import annotations

import itertools
import json

import numpy as np
import orjson
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


@pytest.mark.parametrize(
    "values", [[1e308] * 40, [-1e308, 1e308] * 40, [-1e308, *[1e308] * 9], [1e200] * 40 + [-1e200]]
)
def test_values_near_the_largest_float_have_a_baseline_and_finite_statistics(values) -> None:
    made = profile({"x": values})
    growing = GrowingBaseline()
    growing.update({"x": values})
    for found in (made, growing.freeze()):
        # As it is stored: JSON has no infinity and no NaN.
        restored = BaselineProfile.from_json(orjson.loads(orjson.dumps(found.to_json())))
        assert restored.content_hash == found.content_hash
    drift = compare(values * 4, [5.0] * 40)
    assert np.isfinite(drift.wasserstein)
    assert drift.wasserstein_scaled is None or np.isfinite(drift.wasserstein_scaled)


def test_a_growing_baseline_knows_the_spread_of_values_far_from_zero() -> None:
    values = 1.7e9 + np.random.default_rng(3).normal(size=3000)
    parts = []
    for batch in np.array_split(values, 7):
        parts.append(GrowingBaseline())
        parts[-1].update({"x": batch})
    for other in parts[:0:-1]:
        parts[0].merge(other)
    found = parts[0].freeze().features["x"].numeric
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-6)


def test_windows_added_up_in_any_order_give_the_very_same_statistics() -> None:
    base = profile({"c": ["a", "b", "c"] * 100}).features["c"]
    parts = [
        count_window(base, pd.Series(list(texts))) for texts in ("abd" * 11, "eea" * 20, "fgd" * 17)
    ]
    sums = {
        judge_window(base, one + other + third, Thresholds())
        for one, other, third in itertools.permutations(parts)
    }
    assert len({(found.psi, found.chi2_p, found.cells_current) for found in sums}) == 1


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
