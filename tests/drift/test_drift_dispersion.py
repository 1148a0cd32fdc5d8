"""Streams whose neighbouring rows are alike: fewer false alarms, and the onset still seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from sklearn.datasets import load_breast_cancer, load_iris, load_wine

from secmon_dagster.drift import AlertLevel, DriftDetector, compare, profile
from secmon_dagster.drift.profile import BaselineProfile, profile_feature

Make = Callable[[np.random.Generator, int], np.ndarray]
ALARMS = (AlertLevel.WARNING, AlertLevel.CRITICAL)


def autoregressive(rng: np.random.Generator, rows: int, memory: float = 0.9) -> np.ndarray:
    """Each value mostly the one before; standard normal as a whole."""
    noise = rng.normal(size=rows + 500) * np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], noise))[500:]


def test_windows_of_a_stream_with_memory_are_no_alarm_until_its_onset() -> None:
    rows, windows, onset = 500, 12, 8
    before = after = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        stream = np.stack([autoregressive(rng, 8000 + rows * windows) for _ in range(3)], axis=1)
        stream[8000 + rows * onset :, 0] += 1.5
        table = pd.DataFrame(stream, columns=["a", "b", "c"])
        detector = DriftDetector(table[:8000])
        for number in range(windows):
            start = 8000 + rows * number
            alarm = detector.check(table[start : start + rows]).level in ALARMS
            before += alarm and number < onset
            after += alarm and number >= onset
    assert before <= 2  # of 48; counted as independent rows, about half of them are
    assert after >= 22  # of 24


def test_a_window_shorter_than_a_season_is_no_alarm() -> None:
    hours = np.arange(168 * 30)
    rng = np.random.default_rng(2)
    stream = rng.normal(size=len(hours)) + 1.5 * np.sin(2 * np.pi * hours / 168)
    detector = DriftDetector({"load": stream[: 168 * 20]})
    windows = stream[168 * 20 :].reshape(-1, 84)
    assert sum(detector.check({"load": each}).level in ALARMS for each in windows) <= 1
    assert all(detector.check({"load": each + 4}).level in ALARMS for each in windows)


def test_the_same_stream_in_random_order_is_judged_row_by_row() -> None:
    rng = np.random.default_rng(1)
    reference = profile_feature(pd.Series(autoregressive(rng, 8000)), "x")
    assert reference.dispersion is not None and reference.dispersion.ratio(500) > 3
    shuffled = pd.DataFrame({"x": rng.normal(0.5, 1, 500)})
    drift = DriftDetector(BaselineProfile({"x": reference})).check(shuffled).features[0]
    assert drift.dispersion is None and drift.level in ALARMS


@pytest.mark.parametrize(
    "make",
    [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: np.sort(rng.normal(size=n)),
        lambda rng, n: np.concatenate([rng.normal(size=n // 2), rng.normal(2, 1, n // 2)]),
        lambda rng, n: rng.normal(size=n) + np.linspace(0, 2, n),
        lambda rng, n: np.repeat([0.0, 1.0], n // 2),
        lambda rng, n: np.tile([0.0, 1.0, 2.0, 3.0], n // 4),
        lambda rng, n: np.full(n, 7.0),
    ],
    ids=["apart", "sorted", "two samples", "trend", "grouped", "in turn", "constant"],
)
def test_an_order_that_says_nothing_about_time_changes_nothing(make: Make) -> None:
    for seed in range(5):
        values = make(np.random.default_rng(seed), 4000)
        assert profile_feature(pd.Series(values), "x").dispersion is None


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_iris])
def test_bundled_data_sorted_by_class_or_not_is_judged_row_by_row(
    load: Callable[..., object],
) -> None:
    table = load(as_frame=True).data  # type: ignore[attr-defined,call-arg]
    assert [each.dispersion for each in profile(table).features.values()] == [None] * table.shape[1]


def test_categories_that_come_in_stretches_are_a_stream_too() -> None:
    rng = np.random.default_rng(3)
    names = np.array(["a", "b", "c"])[np.digitize(autoregressive(rng, 12_000), [-0.5, 0.5])]
    reference, windows = names[:8000], names[8000:].reshape(10, 400)
    assert [compare(reference, window).level for window in windows].count(AlertLevel.NORMAL) >= 9
    assert compare(reference, ["c"] * 400).level is AlertLevel.CRITICAL


def test_a_stored_profile_keeps_what_its_order_said() -> None:
    made = profile({"x": autoregressive(np.random.default_rng(1), 8000)})
    restored = BaselineProfile.from_json(made.to_json())
    assert restored.features["x"].dispersion == made.features["x"].dispersion is not None
