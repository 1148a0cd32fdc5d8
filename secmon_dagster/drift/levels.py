"""From a number to a level: thresholds, the sample-size gate, the false-discovery rate.

A PSI raises a level only if it is at or above the threshold *and* larger than samples of these
sizes reach by chance (:func:`~secmon_dagster.drift.statistics.psi_gate`). That gate rests on a
chi-squared limit; where a cell expects fewer than eight current rows the limit does not hold yet
(one empty cell alone adds 0.69), and Pearson's contingency test has to agree. Where rows that
follow one another are alike, both are widened (:mod:`~secmon_dagster.drift.dispersion`).

References
----------
Benjamini, Y. and Hochberg, Y. (1995). *Journal of the Royal Statistical Society B* 57(1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from secmon_dagster.drift.dispersion import Dispersion
from secmon_dagster.drift.statistics.categorical import chi2_contingency_p, chi2_statistic
from secmon_dagster.drift.statistics.psi import FLOOR, GATE_CONFIDENCE, psi, psi_gate
from secmon_dagster.drift.vocabulary import AlertLevel
from secmon_dagster.errors import InvalidInputError

Counts = npt.NDArray[np.int64]

ALPHA = 0.01
FALSE_DISCOVERY_RATE = 0.01
_ENOUGH_PER_CELL = 8


@dataclass(frozen=True)
class Thresholds:
    """Where a metric becomes a WARNING or CRITICAL; inclusive. ``psi_*`` are PSI, all others are
    differences of shares, gaps or scores between the baseline and the current window."""

    psi_warning: float = 0.10
    psi_critical: float = 0.25
    missing_warning: float = 0.05
    missing_critical: float = 0.20
    bias_warning: float = 0.05
    bias_critical: float = 0.10
    performance_warning: float = 0.05
    performance_critical: float = 0.10
    min_rows: int = 30
    min_stratum: int = 100

    def __post_init__(self) -> None:
        for name in ("psi", "missing", "bias", "performance"):
            low, high = getattr(self, f"{name}_warning"), getattr(self, f"{name}_critical")
            if not low > 0:
                raise InvalidInputError.of(f"{name}_warning", low, "above 0")
            if not high >= low:
                raise InvalidInputError.of(
                    f"{name}_critical", high, f"at least {name}_warning ({low})"
                )
        for name in ("min_rows", "min_stratum"):
            if getattr(self, name) < 1:
                raise InvalidInputError.of(name, getattr(self, name), "1 or more")

    @classmethod
    def of(cls, given: Mapping[str, float] | Thresholds | None) -> Thresholds:
        """Thresholds from a mapping; what is not given keeps its default.

        Raises:
            InvalidInputError: for an unknown name, a value that is no number, or a CRITICAL below
                its WARNING.
        """
        if isinstance(given, Thresholds):
            return given
        known = {field.name for field in fields(cls)}
        for name, value in (given or {}).items():
            if name not in known:
                raise InvalidInputError.of("thresholds", name, ", ".join(sorted(known)))
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInputError.of(f"thresholds.{name}", value, "a number")
        values = dict(given or {})
        if "psi_critical" in values and "psi_warning" not in values:
            values["psi_warning"] = min(cls.psi_warning, values["psi_critical"])
        for name in ("min_rows", "min_stratum"):
            if name in values:
                values[name] = int(values[name])
        return cls(**values)  # type: ignore[arg-type]

    def level(self, name: str, value: float) -> AlertLevel:
        """The level of ``value`` on the thresholds ``{name}_warning`` and ``{name}_critical``."""
        if value >= getattr(self, f"{name}_critical"):
            return AlertLevel.CRITICAL
        if value >= getattr(self, f"{name}_warning"):
            return AlertLevel.WARNING
        return AlertLevel.NORMAL


@dataclass(frozen=True)
class Verdict:
    """A PSI judged. ``level`` is None where the rows do not suffice; ``reason`` says why, or why a
    PSI above its threshold was not raised. ``p`` is the chance of such a window where neighbouring
    rows are alike, None elsewhere."""

    psi: float
    gate: float
    level: AlertLevel | None
    reason: str | None = None
    p: float | None = None


def judge_psi(
    reference: Counts,
    current: Counts,
    thresholds: Thresholds,
    dispersion: Dispersion | None = None,
) -> Verdict:
    """PSI of two count vectors on the same cells and what it says at these sample sizes."""
    n, m, cells = int(reference.sum()), int(current.sum()), len(reference)
    value, gate = psi(reference, current), psi_gate(cells, n, m)
    p = None
    if dispersion is not None:
        gate *= dispersion.widening(cells, m, GATE_CONFIDENCE)
        p = dispersion.p_value(chi2_statistic(reference, current), cells, m)
    return replace(_judge_psi(reference, current, thresholds, value, gate, p), p=p)


def _judge_psi(
    reference: Counts,
    current: Counts,
    thresholds: Thresholds,
    value: float,
    gate: float,
    p: float | None,
) -> Verdict:
    n, m = int(reference.sum()), int(current.sum())
    if gate >= _largest_psi(reference):
        few = (
            f"{len(reference)} cells are too many for {m} current rows"
            if p is None
            else f"{m} current rows, each like the one before, are too few"
        )
        return Verdict(value, gate, None, f"{few}: chance alone reaches a PSI of {gate:.2f}")
    level = thresholds.level("psi", value)
    if level is AlertLevel.NORMAL:
        return Verdict(value, gate, level)
    if value <= gate:
        return Verdict(
            value,
            gate,
            AlertLevel.NORMAL,
            f"PSI {value:.3f} is within the {gate:.3f} that {m} rows reach by chance",
        )
    if p is not None and p > ALPHA:
        return Verdict(
            value,
            gate,
            AlertLevel.NORMAL,
            f"PSI {value:.3f} is within what {m} rows reach by chance, each like the one before",
        )
    smallest = reference[reference > 0].min() / n * m
    if smallest < _ENOUGH_PER_CELL and chi2_contingency_p(reference, current) > ALPHA:
        return Verdict(
            value,
            gate,
            AlertLevel.NORMAL,
            f"PSI {value:.3f} comes from cells of a few rows; the contingency test does not "
            "confirm it",
        )
    return Verdict(value, gate, level)


def _largest_psi(reference: Counts) -> float:
    """The PSI if every current row fell outside all of the reference's cells."""
    p = np.maximum(reference / reference.sum(), FLOOR)
    return float(np.sum((FLOOR - p) * np.log(FLOOR / p)) + (1 - FLOOR) * np.log(1 / FLOOR))


def judge_missing(share_change: float, p: float, thresholds: Thresholds) -> AlertLevel:
    """The level of a changed share of missing values; one that chance explains is NORMAL."""
    if p > ALPHA:
        return AlertLevel.NORMAL
    return thresholds.level("missing", abs(share_change))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (q-values), in the order given.

    Raising those at or below 0.01 keeps the expected share of false ones among them below 1 %,
    however many features a check has.

    >>> [round(q, 3) for q in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    count = len(p_values)
    if count == 0:
        return []
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, dtype=np.float64)[order] * count / np.arange(1, count + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    result = np.empty(count)
    result[order] = adjusted
    return [float(q) for q in result]
