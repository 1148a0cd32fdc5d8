"""Streams whose onset is known: alerts come from the onset on, and none before."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from secmon_dagster.drift import AlertLevel, DriftDetector, Thresholds
from secmon_dagster.drift.compare import count_window, judge_window
from secmon_dagster.drift.profile import FeatureProfile, profile_feature

WINDOW, WINDOWS, ONSET = 200, 10, 6


def rows_of(name: str, rows: int, seed: int) -> pd.DataFrame:
    """Bundled data drawn with replacement, jittered so that no value is a copy."""
    load = {"breast_cancer": load_breast_cancer, "wine": load_wine}[name]
    frame = load(as_frame=True).data
    rng = np.random.default_rng(seed)
    drawn = frame.sample(rows, replace=True, random_state=seed).reset_index(drop=True)
    return drawn + rng.normal(size=drawn.shape) * frame.std().to_numpy() * 0.02


def level_of(reference: FeatureProfile, values: np.ndarray) -> AlertLevel | None:
    window = count_window(reference, pd.Series(values))
    return judge_window(reference, window, Thresholds()).level


def shifted(window: pd.DataFrame, columns: list[str], strength: float) -> pd.DataFrame:
    return window.assign(**{name: window[name] + strength * window[name].std() for name in columns})


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))]
)
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("onset", ["abrupt", "gradual"])
def test_alerts_come_from_the_onset_on(name: str, seed: int, onset: str) -> None:
    reference = rows_of(name, 3000, seed=1000 + seed)
    drifting = list(reference.columns[:3])
    detector = DriftDetector(reference)
    levels: list[AlertLevel | None] = []
    for number in range(WINDOWS):
        window = rows_of(name, WINDOW, seed=100 * seed + number)
        strength = {"abrupt": 1.0, "gradual": min(1.5, 0.5 * (number - ONSET + 1))}[onset]
        if number >= ONSET:
            window = shifted(window, drifting, strength)
        levels.append(detector.check(window).level)
    assert levels[:ONSET] == [AlertLevel.NORMAL] * ONSET
    first = ONSET if onset == "abrupt" else ONSET + 1  # half a deviation may still be chance
    assert all(level in (AlertLevel.WARNING, AlertLevel.CRITICAL) for level in levels[first:])
    assert levels[-1] is AlertLevel.CRITICAL


@pytest.mark.parametrize(("rows", "most"), [(30, 0.05), (50, 0.05), (100, 0.05), (200, 0.02)])
@pytest.mark.parametrize("shape", ["normal", "lognormal", "t3", "few_values", "categories"])
def test_false_alarms_without_drift_are_rare(rows: int, most: float, shape: str) -> None:
    rng = np.random.default_rng(rows)

    def draw(size: int) -> np.ndarray:
        if shape == "normal":
            return rng.normal(size=size)
        if shape == "lognormal":
            return rng.lognormal(size=size)
        if shape == "t3":
            return rng.standard_t(3, size=size)
        if shape == "few_values":
            return np.floor(rng.exponential(2.0, size=size))
        return rng.choice([f"c{i}" for i in range(40)], size=size)

    reference = profile_feature(pd.Series(draw(10_000)), "x")
    rounds = 300
    alarms = sum(
        level_of(reference, draw(rows)) not in (AlertLevel.NORMAL, None) for _ in range(rounds)
    )
    # Two standard errors of a rate measured in so many rounds are granted.
    assert alarms / rounds <= most + 2 * np.sqrt(most * (1 - most) / rounds)


def test_half_a_deviation_in_a_hundred_rows_is_mostly_seen() -> None:
    rng = np.random.default_rng(5)
    seen = 0
    for _ in range(10):
        reference = profile_feature(pd.Series(rng.normal(size=10_000)), "x")
        seen += sum(
            level_of(reference, rng.normal(shift, 1, 100)) is not AlertLevel.NORMAL
            for shift in [0.5, -0.5] * 50
        )
    assert seen / 1000 >= 0.85
