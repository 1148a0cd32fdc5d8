"""Where scipy has a statistic, ours is the same number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.stats.contingency import association

from secmon_dagster.drift.statistics import (
    chi2_contingency_p,
    cramers_v,
    js_distance,
    kl_divergence,
    ks_p_value,
    ks_statistic,
    two_proportion_p,
    wasserstein,
)
from secmon_dagster.drift.statistics.psi import floored_shares

# Ties, constants, heavy tails and tiny samples come out of this on their own.
samples = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 6)),
    ),
    min_size=1,
    max_size=60,
).map(lambda values: np.sort(np.array(values)))
tables = st.integers(2, 8).flatmap(
    lambda k: st.tuples(
        *[st.lists(st.integers(0, 500), min_size=k, max_size=k).filter(any) for _ in range(2)]
    ).map(lambda pair: (np.array(pair[0]), np.array(pair[1])))
)


@given(samples, samples)
def test_ks_statistic(one: np.ndarray, other: np.ndarray) -> None:
    assert ks_statistic(one, other) == pytest.approx(
        stats.ks_2samp(one, other).statistic, rel=1e-9, abs=1e-15
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(50_000, 20_000), (30_000, 30_001), (9_000, 40_000)])
def test_ks_of_large_samples_where_only_some_stretches_are_opened(
    seed: int, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    one = np.sort(np.round(rng.normal(size=sizes[0]), seed))
    other = np.sort(np.round(rng.normal(0.02 * seed, 1.1, size=sizes[1]), seed))
    theirs = stats.ks_2samp(one, other)
    ours = ks_statistic(one, other)
    assert ours == pytest.approx(theirs.statistic, rel=1e-9)
    assert ks_p_value(ours, one, other) == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("rows", [(10_001, 2_000), (100_000, 100_000), (300_000, 20_000)])
@pytest.mark.parametrize("scaled", [0.5, 1.0, 2.19, 2.21, 5.0, 40.0, 300.0, 400.0])
def test_ks_p_value_of_large_samples(rows: tuple[int, int], scaled: float) -> None:
    n, m = rows
    effective = n * m / (n + m)
    statistic = float(np.sqrt(scaled / effective))
    ours = ks_p_value(statistic, np.empty(n), np.empty(m))
    theirs = float(stats.kstwo.sf(statistic, np.round(max(n, m) * min(n, m) / (n + m))))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=0)


def test_one_outlier_in_the_reference_does_not_hide_a_change() -> None:
    rng = np.random.default_rng(16)
    one = np.sort(np.append(rng.normal(size=19_999), 1e6))
    other = np.sort(rng.normal(0.5, 1, size=5_000))
    assert ks_statistic(one, other) == pytest.approx(stats.ks_2samp(one, other).statistic)
    assert ks_statistic(one, other) > 0.18


@given(samples, samples)
def test_ks_p_value_of_small_samples(one: np.ndarray, other: np.ndarray) -> None:
    theirs = stats.ks_2samp(one, other)
    assert ks_p_value(float(theirs.statistic), one, other) == pytest.approx(theirs.pvalue, rel=1e-9)


@given(samples, samples)
def test_wasserstein(one: np.ndarray, other: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(one).max()), float(np.abs(other).max()))
    assert wasserstein(one, other) == pytest.approx(
        stats.wasserstein_distance(one, other), rel=1e-9, abs=1e-12 * scale
    )


@pytest.mark.parametrize(("n", "m"), [(100_000, 1_000), (70_001, 99_991), (65_536, 131_072)])
def test_wasserstein_over_many_blocks(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    one, other = np.sort(rng.lognormal(size=n)), np.sort(rng.lognormal(0.1, 1.2, size=m))
    assert wasserstein(one, other) == pytest.approx(
        stats.wasserstein_distance(one, other), rel=1e-9
    )


@given(tables)
def test_jensen_shannon_distance(table: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = jensenshannon(table[0], table[1], base=2)
    # The root turns rounding of 1e-17 near zero into 1e-8.
    assert js_distance(*table) == pytest.approx(theirs, rel=1e-9, abs=3e-8)


@given(tables)
def test_kl_divergence_is_the_relative_entropy_of_the_floored_shares(
    table: tuple[np.ndarray, np.ndarray],
) -> None:
    p, q = floored_shares(table[0]), floored_shares(table[1])
    assert kl_divergence(*table) == pytest.approx(stats.entropy(p, q), rel=1e-9, abs=1e-14)


@given(tables)
def test_chi_squared_and_cramers_v(table: tuple[np.ndarray, np.ndarray]) -> None:
    stacked = np.vstack(table)
    stacked = stacked[:, stacked.sum(axis=0) > 0]
    if stacked.shape[1] == 1:
        assert (chi2_contingency_p(*table), cramers_v(*table)) == (1.0, 0.0)
        return
    assert chi2_contingency_p(*table) == pytest.approx(
        stats.chi2_contingency(stacked).pvalue, rel=1e-9
    )
    assert cramers_v(*table) == pytest.approx(association(stacked, method="cramer"), rel=1e-9)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(50, 500), st.integers(50, 500))
def test_two_proportions_are_pearsons_test_of_their_table(
    hits: int, other_hits: int, rows: int, other_rows: int
) -> None:
    table = [[hits, rows - hits], [other_hits, other_rows - other_hits]]
    if hits + other_hits in (0, rows + other_rows):
        assert two_proportion_p(hits, rows, other_hits, other_rows) == 1.0
        return
    theirs = stats.chi2_contingency(table, correction=False).pvalue
    assert two_proportion_p(hits, rows, other_hits, other_rows) == pytest.approx(theirs, rel=1e-9)
