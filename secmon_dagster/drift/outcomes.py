"""What became of a model's answers: performance and fairness gaps of a window with its outcomes.

A table may hold, beside the features, the model's score or answer, the true label (once it is
known) and the strata that people belong to. The reference's outcomes are summed up once: its
performance, the calibration of its scores, its gaps. A window is then measured on the rows whose
label has arrived; while too few have, its performance is estimated from the scores alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from secmon_dagster.drift.bias import Gap, bias_drift, gaps
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.performance import (
    Calibration,
    Performance,
    estimated,
    measured,
    performance_drift,
)
from secmon_dagster.drift.results import BiasMetric, DriftMetric
from secmon_dagster.errors import DriftError, InvalidInputError

Floats = npt.NDArray[np.float64]
_SELECTED_FROM = 0.5


@dataclass(frozen=True)
class OutcomeColumns:
    """Which columns of a table are outcomes.

    ``score`` is the probability the model gave to the class ``positive``, ``prediction`` the class
    it chose (unset: positive from a score of 0.5 on), ``label`` the true class, empty while it is
    not known. ``strata`` may be features as well; the other three are not compared as features.
    """

    score: str | None = None
    prediction: str | None = None
    label: str | None = None
    positive: str | int | float | bool = 1
    strata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "strata", tuple(self.strata))
        named = [*self.answers, *([self.label] if self.label else []), *self.strata]
        if not self.answers:
            raise InvalidInputError.of("columns", "neither score nor prediction", "at least one")
        if len(set(named)) < len(named):
            raise InvalidInputError.of("columns", "one column in two roles", "one role a column")
        if self.label is None and not self.strata:
            raise InvalidInputError.of("columns", "neither label nor strata", "at least one")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> OutcomeColumns:
        """From a mapping.

        Raises:
            InvalidInputError: for an unknown role, a role given twice, or nothing to measure.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise InvalidInputError.of("columns", unknown[0], ", ".join(sorted(known)))
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "strata": list(self.strata)}

    @property
    def answers(self) -> list[str]:
        """The columns the model filled."""
        return [name for name in (self.score, self.prediction) if name]

    def features_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows without answers and labels."""
        dropped = [name for name in (*self.answers, self.label) if name in rows.columns]
        return rows.drop(columns=dropped)

    def answers_of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The answers alone.

        Raises:
            DriftError: if one is absent.
        """
        return rows[_present(rows, self.answers)]


def _present(rows: pd.DataFrame, names: list[str]) -> list[str]:
    absent = [name for name in names if name not in rows.columns]
    if absent:
        raise DriftError(f"the rows have no column {absent[0]}, which is declared under columns")
    return names


@dataclass(frozen=True)
class OutcomeBaseline:
    """What the reference's outcomes were. ``gaps`` by stratum type."""

    columns: OutcomeColumns
    performance: Performance | None
    calibration: Calibration | None
    gaps: Mapping[str, list[Gap]]

    def to_json(self) -> dict[str, Any]:
        """JSON types; counts, shares and the calibration curve."""
        return {
            "columns": self.columns.to_dict(),
            "performance": None if self.performance is None else asdict(self.performance),
            "calibration": None
            if self.calibration is None
            else {
                "scores": self.calibration.scores.tolist(),
                "probabilities": self.calibration.probabilities.tolist(),
            },
            "gaps": {name: [asdict(gap) for gap in found] for name, found in self.gaps.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> OutcomeBaseline:
        """The baseline :meth:`to_json` came from."""
        performance, curve = body["performance"], body["calibration"]
        return cls(
            OutcomeColumns.of(body["columns"]),
            None if performance is None else Performance(**performance),
            None
            if curve is None
            else Calibration(np.asarray(curve["scores"]), np.asarray(curve["probabilities"])),
            {name: [Gap(**gap) for gap in found] for name, found in body["gaps"].items()},
        )


def profile_outcomes(rows: pd.DataFrame, columns: OutcomeColumns) -> OutcomeBaseline:
    """Sum up the reference's outcomes.

    Raises:
        DriftError: if a declared column is absent, or no row has a label where one is declared.
        InvalidInputError: for scores that are no numbers, or labels of one class only.
    """
    performance = calibration = None
    if columns.prediction is not None:
        chosen = _is_positive(_scores(rows, columns.prediction), columns)
        if not chosen.any():
            raise DriftError(
                f"no row of the reference has {columns.positive!r} in {columns.prediction}",
                hint="name the class that is selected: columns.positive",
            )
    if columns.label is not None:
        known = _labelled(rows, columns)
        if known.empty:
            raise DriftError(f"no row of the reference has a label in {columns.label}")
        if columns.score is not None:
            truth = _is_positive(known[columns.label], columns)
            scores = _scores(known, columns.score)
            calibration = Calibration.fit(scores, truth)
            performance = measured(scores, truth)
    return OutcomeBaseline(columns, performance, calibration, _gaps(rows, columns))


def judge_outcomes(
    baseline: OutcomeBaseline,
    rows: pd.DataFrame,
    thresholds: Thresholds | Mapping[str, float] | None = None,
) -> tuple[list[DriftMetric], list[BiasMetric]]:
    """Performance and gaps of a window against the baseline's.

    Measured on the rows with a label if there are ``min_rows`` of them, else estimated on all rows.

    Raises:
        DriftError: if a declared column is absent.
        InvalidInputError: for scores that are no numbers.
    """
    limits, columns = Thresholds.of(thresholds), baseline.columns
    performance: list[DriftMetric] = []
    if baseline.performance is not None and baseline.calibration is not None:
        assert columns.score is not None
        known = _labelled(rows, columns)
        if len(known) >= limits.min_rows:
            now = measured(
                _scores(known, columns.score), _is_positive(known[columns.label], columns)
            )
        else:
            now = estimated(_scores(rows, columns.score), baseline.calibration)
        performance = performance_drift(baseline.performance, now, limits)
    current = _gaps(rows, columns)
    bias = [
        metric
        for stratum_type, before in baseline.gaps.items()
        for metric in bias_drift(
            before, current[stratum_type], stratum_type, limits, among=_count(current)
        )
    ]
    return performance, bias


def _count(found: Mapping[str, list[Gap]]) -> int:
    return sum(len(each) for each in found.values())


def _labelled(rows: pd.DataFrame, columns: OutcomeColumns) -> pd.DataFrame:
    """Rows whose label has arrived; none where the window has no label column yet."""
    if columns.label not in rows.columns:
        return rows.iloc[:0]
    return rows[rows[columns.label].notna()]


def _is_positive(values: pd.Series, columns: OutcomeColumns) -> Floats:
    return (values == columns.positive).to_numpy().astype(np.float64)


def _scores(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows[_present(rows, [name])[0]]


def _gaps(rows: pd.DataFrame, columns: OutcomeColumns) -> dict[str, list[Gap]]:
    """Gaps of every stratum type; equal opportunity on the rows that have a label."""
    if not columns.strata:
        return {}
    if columns.prediction is not None:
        selected = _is_positive(_scores(rows, columns.prediction), columns)
    else:
        assert columns.score is not None
        score = _scores(rows, columns.score)
        selected = (score >= _SELECTED_FROM).to_numpy().astype(np.float64)
    labels = None
    if columns.label is not None and columns.label in rows.columns:
        labels = _is_positive(rows[columns.label], columns)
    _present(rows, list(columns.strata))
    return {name: gaps(selected, rows[name], labels) for name in columns.strata}
