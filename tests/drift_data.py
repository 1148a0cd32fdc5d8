"""Data and doubles that the drift tests share."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pandas as pd


class RecordedAudit:
    """Stands for the audit package's outbox: remembers what was put into it."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def __call__(self, connection: Any, /, **entry: Any) -> str:
        assert not connection.closed
        self.entries.append(entry)
        return uuid.uuid4().hex

    def actions(self) -> list[str]:
        return [entry["action"] for entry in self.entries]


def frame(rows: int = 2000, *, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Two numbers and a category; ``shift`` moves ``amount`` by that many standard deviations."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.normal(100 + 15 * shift, 15, rows),
            "age": rng.gamma(3.0, 10.0, rows),
            "channel": rng.choice(["web", "shop", "phone"], rows, p=[0.6, 0.3, 0.1]),
        }
    )


def scored(rows: int, *, seed: int, blur: float = 1.0) -> pd.DataFrame:
    """A feature, a calibrated score, the label it predicts, and two ways to group people.

    ``blur`` below 1 draws the scores towards a half; they stay calibrated.
    """
    rng = np.random.default_rng(seed)
    score = 0.5 + blur * (rng.beta(0.8, 0.8, rows) - 0.5)
    return pd.DataFrame(
        {
            "tenure": rng.gamma(2.0, 12.0, rows),
            "score": score,
            "churned": (rng.random(rows) < score).astype(float),
            "group": rng.choice(["a", "b"], rows),
            "region": rng.choice([f"r{i}" for i in range(12)], rows),
        }
    )
