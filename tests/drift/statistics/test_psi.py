"""psi-v1: its cells, its value, and what it does at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from secmon_dagster.drift.statistics import (
    count_cells,
    js_distance,
    kl_divergence,
    ks_statistic,
    numeric_cuts,
    psi,
    psi_gate,
    wasserstein,
)

floats = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
columns = st.lists(floats, min_size=1, max_size=80).map(np.array)


def psi_of(reference: np.ndarray, current: np.ndarray) -> float:
    cuts = numeric_cuts(np.sort(reference))
    return psi(count_cells(reference, cuts), count_cells(current, cuts))


def test_the_cells_are_the_reference_deciles_with_open_ends() -> None:
    reference = np.arange(1000.0)
    cuts = numeric_cuts(reference)
    assert cuts == pytest.approx(np.quantile(reference, np.arange(1, 10) / 10))
    assert count_cells(np.array([-1e300, 1e300]), cuts).tolist() == [1] + [0] * 8 + [1]


def test_the_value_is_the_sum_over_cells_of_floored_shares() -> None:
    reference, current = np.array([100, 300, 600]), np.array([0, 500, 500])
    p, q = np.array([0.1, 0.3, 0.6]), np.array([1e-4, 0.5, 0.5])
    assert psi(reference, current) == pytest.approx(float(((q - p) * np.log(q / p)).sum()))


def test_rows_that_move_from_a_frequent_value_to_just_below_it_are_seen() -> None:
    reference = np.concatenate([np.full(9_000, 10.0), np.linspace(11, 20, 1_000)])
    current = np.concatenate([np.full(2_700, 10.0), np.full(6_300, 9.0), np.linspace(11, 20, 1000)])
    assert psi_of(reference, current) > 6


def test_a_constant_reference_sees_every_other_value() -> None:
    constant = np.full(500, 7.0)
    assert psi_of(constant, np.full(100, 7.0)) == 0
    assert psi_of(constant, np.full(100, 7.1)) > 8
    assert psi_of(constant, np.full(100, 6.9)) > 8


def test_the_gate_is_the_chi_squared_quantile_times_the_sizes() -> None:
    assert psi_gate(10, 10_000, 100) == pytest.approx(chi2.ppf(0.99, 9) * (1 / 10_000 + 1 / 100))


@given(columns, columns)
def test_counting_sorted_and_unsorted_values_is_the_same(
    reference: np.ndarray, current: np.ndarray
) -> None:
    cuts = numeric_cuts(np.sort(reference))
    counted = count_cells(current, cuts)
    assert counted.tolist() == count_cells(np.sort(current), cuts, ordered=True).tolist()
    assert counted.sum() == len(current)


@given(columns, columns, columns)
def test_counts_of_partitions_add_up_to_the_counts_of_the_whole(
    reference: np.ndarray, one: np.ndarray, other: np.ndarray
) -> None:
    cuts = numeric_cuts(np.sort(reference))
    whole = count_cells(np.concatenate([one, other]), cuts)
    assert (count_cells(one, cuts) + count_cells(other, cuts)).tolist() == whole.tolist()


@given(columns, columns)
def test_psi_and_js_are_symmetric_in_the_counts_and_bounded(
    one: np.ndarray, other: np.ndarray
) -> None:
    cuts = numeric_cuts(np.sort(one))
    a, b = count_cells(one, cuts), count_cells(other, cuts)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert js_distance(a, b) == pytest.approx(js_distance(b, a))
    assert 0 <= js_distance(a, b) <= 1
    assert kl_divergence(a, b) >= 0
    assert 0 <= ks_statistic(np.sort(one), np.sort(other)) <= 1


@given(columns)
def test_a_sample_does_not_differ_from_itself(values: np.ndarray) -> None:
    ordered = np.sort(values)
    assert psi_of(values, values) == 0
    assert ks_statistic(ordered, ordered) == 0
    assert wasserstein(ordered, ordered) == 0


@given(columns, columns, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_a_change_of_unit_changes_only_the_distance_and_that_by_the_unit(
    one: np.ndarray, other: np.ndarray, unit: float
) -> None:
    # Powers of two, so that the change of unit itself is exact.
    a, b = np.sort(one), np.sort(other)
    assert psi_of(a * unit, b * unit) == pytest.approx(psi_of(a, b), rel=1e-9, abs=1e-12)
    assert ks_statistic(a * unit, b * unit) == ks_statistic(a, b)
    assert wasserstein(a * unit, b * unit) == pytest.approx(wasserstein(a, b) * unit, rel=1e-9)


@given(columns, columns)
def test_the_order_of_rows_does_not_matter(one: np.ndarray, other: np.ndarray) -> None:
    shuffled = np.random.default_rng(0).permutation(other)
    assert psi_of(one, shuffled) == psi_of(one, other)
