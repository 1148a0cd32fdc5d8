"""The data all sides get: a reference of 100,000 and a window of 1,000,000 rows, 50 numbers and 10
categories; a fifth of the columns drifted. Seeded, so that every process makes the same."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

# Fewer columns make a quick look; every side's time grows with their number alike.
NUMERIC = int(os.environ.get("SECMON_BENCHMARK_COLUMNS", "50"))
CATEGORICAL = 10
REFERENCE, CURRENT = 100_000, 1_000_000


def numeric(index: int, rows: int, *, current: bool) -> np.ndarray:
    """One numeric column: normal, lognormal, gamma, Student's t or whole numbers."""
    rng = np.random.default_rng([index, int(current), rows])
    shift = 0.3 * (current and index % 5 == 0)
    draw = (
        lambda: rng.normal(shift, 1, rows),
        lambda: rng.lognormal(shift, 0.8, rows),
        lambda: rng.gamma(2 + shift, 2.0, rows),
        lambda: rng.standard_t(3, rows) + shift,
        lambda: np.floor(rng.exponential(5 + 2 * shift, rows)),
    )[index % 5]
    return draw().astype(np.float64)


def categorical(index: int, rows: int, *, current: bool) -> np.ndarray:
    """One text column of 2 to 1,000 categories."""
    rng = np.random.default_rng([1000 + index, int(current), rows])
    levels = [2, 3, 5, 8, 12, 20, 50, 100, 300, 1000][index]
    weights = np.arange(1, levels + 1, dtype=float) ** (-1.0 + 0.2 * (current and index % 5 == 0))
    return np.array([f"c{i}" for i in range(levels)], dtype=object)[
        rng.choice(levels, rows, p=weights / weights.sum())
    ]


def frame(rows: int, *, current: bool, categories: bool = True) -> pd.DataFrame:
    """All columns."""
    columns = {f"n{i:02}": numeric(i, rows, current=current) for i in range(NUMERIC)}
    if categories:
        columns |= {f"c{i}": categorical(i, rows, current=current) for i in range(CATEGORICAL)}
    return pd.DataFrame(columns)
