"""The same small cases on every side: where definitions differ.

``python definitions.py ours|evidently|nannyml``, on the Python of that side, prints JSON; the table
in ``docs/drift.md`` holds the numbers. Seeded, so that every side sees the same values.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd

ROUNDS = 300
Pair = tuple[np.ndarray, np.ndarray]


def cases() -> dict[str, Pair]:
    """Reference and current values by name."""
    rng = np.random.default_rng(0)
    normal = rng.normal
    holes = normal(size=5000)
    holes[:1000] = np.nan
    tail = np.linspace(11, 20, 1000)
    return {
        "doubled scale": (normal(size=5000), normal(size=5000) * 2),
        "outlier of 1e6": (np.append(normal(size=19_999), 1e6), normal(0.5, 1, 5000)),
        "below a frequent value": (
            np.concatenate([np.full(9000, 10.0), tail]),
            np.concatenate([np.full(2700, 10.0), np.full(6300, 9.0), tail]),
        ),
        "scale of 1e-5": (normal(size=5000) * 1e-5, (normal(size=5000) + 1) * 1e-5),
        "a fifth missing": (normal(size=5000), holes),
    }


def calm() -> tuple[np.ndarray, list[np.ndarray]]:
    """A reference and windows of 100 rows of the same distribution."""
    rng = np.random.default_rng(1)
    return rng.normal(size=10_000), [rng.normal(size=100) for _ in range(ROUNDS)]


def calm_categories() -> list[Pair]:
    """Pairs of samples of one distribution over five categories."""
    rng = np.random.default_rng(2)
    return [tuple(rng.choice(list("abcde"), 1000) for _ in range(2)) for _ in range(ROUNDS)]  # type: ignore[misc]


def share(found: list[Any]) -> float:
    """The share that is true."""
    return float(np.mean([bool(each) for each in found]))


def ours() -> dict[str, Any]:
    """One call each."""
    from secmon_dagster.drift import DriftDetector, compare

    kept = ("psi", "ks", "js", "wasserstein_scaled", "missing_current", "level")
    result: dict[str, Any] = {
        name: {field: getattr(compare(*pair), field) for field in kept}
        for name, pair in cases().items()
    }
    reference, windows = calm()
    detector = DriftDetector({"x": reference})
    result["alarms of 100 rows"] = share(
        [detector.check({"x": each}).level != "NORMAL" for each in windows]
    )
    result["chi2 below 5 %"] = share(
        [(compare(*pair).chi2_p or 0.0) < 0.05 for pair in calm_categories()]
    )
    return result


def evidently() -> dict[str, Any]:
    """Its bare statistical functions, at a threshold of 0.1."""
    from evidently.legacy.calculations import stattests
    from evidently.legacy.core import ColumnType

    tests = {
        "psi": stattests.psi_stat_test,
        "ks_p": stattests.ks_stat_test,
        "js": stattests.jensenshannon_stat_test,
        "wasserstein_scaled": stattests.wasserstein_stat_test,
    }

    def run(test: Any, one: np.ndarray, other: np.ndarray, kind: Any) -> float:
        # As its Report calls them: missing values are dropped before.
        sides = [pd.Series(each).dropna() for each in (one, other)]
        return float(test.func(*sides, kind, 0.1)[0])

    numeric, text = ColumnType.Numerical, ColumnType.Categorical
    result: dict[str, Any] = {
        name: {field: run(test, *pair, numeric) for field, test in tests.items()}
        for name, pair in cases().items()
    }
    reference, windows = calm()
    for field in ("psi", "js"):
        result[f"alarms of 100 rows, {field}"] = share(
            [run(tests[field], reference, each, numeric) >= 0.1 for each in windows]
        )
    result["chi2 below 5 %"] = share(
        [run(stattests.chi_stat_test, *pair, text) < 0.05 for pair in calm_categories()]
    )
    return result


def nannyml() -> dict[str, Any]:
    """Its univariate methods."""
    from nannyml.chunk import SizeBasedChunker
    from nannyml.drift.univariate import methods
    from nannyml.thresholds import ConstantThreshold

    kinds = {
        "ks": methods.KolmogorovSmirnovStatistic,
        "js": methods.ContinuousJensenShannonDistance,
        "wasserstein": methods.WassersteinDistance,
    }

    def fitted(kind: Any, values: np.ndarray) -> Any:
        method = kind(
            chunker=SizeBasedChunker(chunk_size=len(values)),
            threshold=ConstantThreshold(0, 0.1),
            computation_params={},
        )
        return method.fit(pd.Series(values, name="x"))

    result: dict[str, Any] = {
        name: {
            field: float(fitted(kind, one).calculate(pd.Series(other, name="x")))
            for field, kind in kinds.items()
        }
        for name, (one, other) in cases().items()
    }
    reference, windows = calm()
    js = fitted(kinds["js"], reference)
    result["alarms of 100 rows, js"] = share(
        [js.calculate(pd.Series(each, name="x")) >= 0.1 for each in windows]
    )
    return result


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    chosen: dict[str, Callable[[], dict[str, Any]]] = {
        side.__name__: side for side in (ours, evidently, nannyml)
    }
    print(json.dumps(chosen[sys.argv[1]](), indent=1))
