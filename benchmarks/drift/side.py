"""One side of the comparison: ``python side.py SIDE``; prints JSON.

Runs on the Python of that side's own environment, so it imports nothing of this project but the
data, and of the other sides nothing at all. CPU seconds, single thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd

from benchmarks.drift.data import CATEGORICAL, CURRENT, NUMERIC, REFERENCE, categorical, numeric


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def resident_mb(name: str) -> float:
    """A line of /proc/self/status, such as VmRSS (now) or VmHWM (largest since it was reset)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) / 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


def growth_mb(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds of one call, and by how much it raised the resident set at its largest."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest so far
    before = resident_mb("VmRSS")
    seconds = cpu(work)
    return seconds, resident_mb("VmHWM") - before


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numeric columns of reference and window."""
    return tuple(
        pd.DataFrame({f"n{i:02}": numeric(i, n, current=c) for i in range(NUMERIC)})
        for n, c in ((REFERENCE, False), (CURRENT, True))
    )  # type: ignore[return-value]


def ours() -> dict[str, float]:
    """The detector with a profiled baseline, and numpy's sort of the same columns."""
    import numpy as np

    from secmon_dagster.drift import DriftDetector, profile

    reference, current = frames()
    baseline = profile(reference)
    fast = DriftDetector(baseline, rank_statistics=False)
    full = DriftDetector(baseline)
    small = current.head(2000)
    fast.check(small), full.check(small)
    result = {"psi": cpu(lambda: fast.check(current))}
    result["all_four"], result["growth_mb"] = growth_mb(lambda: full.check(current))
    result["sort"] = cpu(lambda: [np.sort(current[name].to_numpy()) for name in current])
    result["profile"] = cpu(lambda: profile(reference))
    texts = [
        pd.DataFrame({f"c{i}": categorical(i, n, current=c) for i in range(CATEGORICAL)})
        for n, c in ((REFERENCE, False), (CURRENT, True))
    ]
    detector = DriftDetector(texts[0])
    result["categorical"] = cpu(lambda: detector.check(texts[1]))
    return result


def evidently_functions() -> dict[str, float]:
    """Its bare statistical functions, column by column."""
    from evidently.legacy.calculations.stattests import (
        jensenshannon_stat_test,
        ks_stat_test,
        psi_stat_test,
        wasserstein_stat_test,
    )
    from evidently.legacy.core import ColumnType

    numeric_column = ColumnType.Numerical  # given as text it would count every value as a category
    reference, current = frames()
    tests = {
        "psi": psi_stat_test,
        "ks": ks_stat_test,
        "wasserstein": wasserstein_stat_test,
        "js": jensenshannon_stat_test,
    }
    result = {
        name: cpu(
            lambda test=test: [
                test.func(reference[c], current[c], numeric_column, 0.1) for c in reference.columns
            ]
        )
        for name, test in tests.items()
    }
    return {**result, "all_four": sum(result.values())}


def evidently_report() -> dict[str, float]:
    """Its Report of PSI alone."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    reference, current = frames()

    def report() -> None:
        definition = DataDefinition(numerical_columns=list(reference.columns))
        sides = [Dataset.from_pandas(f, data_definition=definition) for f in (current, reference)]
        Report([ValueDrift(column=c, method="psi") for c in reference.columns]).run(*sides)

    seconds, growth = growth_mb(report)
    return {"report_psi": seconds, "growth_mb": growth}


def nannyml() -> dict[str, float]:
    """Its univariate calculator: KS, JS and Wasserstein, approximated from 10,000 rows on."""
    import nannyml as nml

    nml.disable_usage_logging()
    reference, current = frames()
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(reference.columns),
        continuous_methods=["kolmogorov_smirnov", "jensen_shannon", "wasserstein"],
        chunk_number=1,
    )
    fit, _ = growth_mb(lambda: calculator.fit(reference))
    calculate, growth = growth_mb(lambda: calculator.calculate(current))
    return {"fit": fit, "calculate": calculate, "growth_mb": growth}


if __name__ == "__main__":
    sides = (ours, evidently_functions, evidently_report, nannyml)
    print(json.dumps({side.__name__: side for side in sides}[sys.argv[1]]()))
