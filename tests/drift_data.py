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
