"""Performance of a classifier: measured where labels are known, estimated where they are not.

Confidence-based estimation: if scores are calibrated, a row of score *p* is positive with
probability *p*, and every metric has an expected value without a single label. It sees what a
change of the inputs does to performance, and is blind to a change of the relation between inputs
and label (concept drift): for that, labels are needed.

References
----------
Hanley, J. and McNeil, B. (1982). *Radiology* 143(1). (standard error of the area)
Garg, S. et al. (2022). *Leveraging unlabeled data to predict out-of-distribution performance*.
Zadrozny, B. and Elkan, C. (2002). *KDD*. (isotonic calibration)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from secmon_dagster.drift.columns import as_series, read_numeric
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.results import DriftMetric
from secmon_dagster.drift.vocabulary import AlertLevel, DriftType
from secmon_dagster.errors import InvalidInputError

Floats = npt.NDArray[np.float64]


def _scores(values: Any, name: str) -> Floats:
    column = read_numeric(as_series(values, name), name)
    if column.missing:
        raise InvalidInputError.of(name, f"{column.missing} missing values", "none")
    if len(column.values) == 0:
        raise InvalidInputError.of(name, "no rows", "at least one")
    return column.values


def _labels(values: Any, rows: int) -> Floats:
    truth = _scores(values, "labels")
    if len(truth) != rows:
        raise InvalidInputError.of("labels", f"{len(truth)} rows", f"{rows} rows")
    if not np.isin(truth, (0, 1)).all():
        raise InvalidInputError.of("labels", "other values", "0 and 1")
    return truth


def roc_auc(scores: Any, labels: Any) -> float | None:
    """Area under the ROC curve; None where only one class occurs."""
    found = _scores(scores, "scores")
    return weighted_auc(found, _labels(labels, len(found)))


def weighted_auc(scores: Floats, positive: Floats) -> float | None:
    """The area where row *i* is positive with weight ``positive[i]`` and negative with the rest.

    The chance that a positive's score exceeds a negative's, ties counting half. Both arrays have
    shape ``(n,)``.

    >>> weighted_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.75
    """
    values, cell = np.unique(scores, return_inverse=True)
    positives = np.bincount(cell, weights=positive, minlength=len(values))
    negatives = np.bincount(cell, weights=1 - positive, minlength=len(values))
    total = positives.sum() * negatives.sum()
    if total == 0:
        return None
    below = np.concatenate([[0.0], np.cumsum(negatives)[:-1]])
    return float((positives * (below + negatives / 2)).sum() / total)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Score to probability: a rising step-wise linear curve through knots, shapes ``(k,)``."""

    scores: Floats
    probabilities: Floats

    @classmethod
    def fit(cls, scores: Any, labels: Any) -> Calibration:
        """Isotonic regression on labelled reference rows the model was not trained on.

        Raises:
            InvalidInputError: for scores or labels that can't be, or only one class.
        """
        from sklearn.isotonic import IsotonicRegression  # a second to import

        found = _scores(scores, "scores")
        truth = _labels(labels, len(found))
        if len(np.unique(truth)) < 2:
            raise InvalidInputError.of("labels", "one class", "both classes")
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(found, truth)
        return cls(np.asarray(fitted.X_thresholds_), np.asarray(fitted.y_thresholds_))

    def probability(self, scores: Any) -> Floats:
        """The chance of each row to be positive."""
        return np.interp(_scores(scores, "scores"), self.scores, self.probabilities)


@dataclass(frozen=True)
class Performance:
    """Area under the ROC curve and accuracy at 0.5, with the rows they rest on."""

    roc_auc: float | None
    accuracy: float
    rows: int
    estimated: bool
    positives: float

    @property
    def auc_error(self) -> float | None:
        """Standard error of the area (Hanley and McNeil)."""
        if self.roc_auc is None:
            return None
        auc, p = self.roc_auc, self.positives
        n = self.rows - p
        q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
        spread = auc * (1 - auc) + (p - 1) * (q1 - auc * auc) + (n - 1) * (q2 - auc * auc)
        return sqrt(max(0.0, spread / (p * n)))


def measured(scores: Any, labels: Any) -> Performance:
    """Performance on labelled rows; accuracy takes scores of 0.5 and more as positive."""
    found = _scores(scores, "scores")
    truth = _labels(labels, len(found))
    return Performance(
        weighted_auc(found, truth),
        float(((found >= 0.5) == (truth == 1)).mean()),
        len(found),
        False,
        float(truth.sum()),
    )


def estimated(scores: Any, calibration: Calibration) -> Performance:
    """The expected performance on rows without labels."""
    found = _scores(scores, "scores")
    chance = calibration.probability(found)
    right = np.where(found >= 0.5, chance, 1 - chance)
    return Performance(
        weighted_auc(found, chance), float(right.mean()), len(found), True, float(chance.sum())
    )


def performance_drift(
    baseline: Performance,
    current: Performance,
    thresholds: Thresholds | Mapping[str, float] | None = None,
) -> list[DriftMetric]:
    """Judge how far the area and the accuracy fell; a fall within two standard errors is NORMAL."""
    limits = Thresholds.of(thresholds)
    suffix = "_estimated" if current.estimated else ""
    errors = {
        "roc_auc": (baseline.auc_error, current.auc_error),
        "accuracy": tuple(
            sqrt(max(1e-12, each.accuracy * (1 - each.accuracy) / each.rows))
            for each in (baseline, current)
        ),
    }
    return [
        _judge(
            name + suffix,
            getattr(baseline, name),
            getattr(current, name),
            errors[name],
            current.rows,
            limits,
        )
        for name in ("roc_auc", "accuracy")
    ]


def _judge(
    name: str,
    before: float | None,
    now: float | None,
    errors: tuple[float | None, ...],
    rows: int,
    limits: Thresholds,
) -> DriftMetric:
    details = {"baseline": before, "current": now, "rows": rows}
    reason = None
    if rows < limits.min_rows:
        reason = f"{rows} rows; at least {limits.min_rows} are needed"
    elif before is None or now is None:
        reason = "only one class occurs"
    if reason is not None or before is None or now is None:
        return DriftMetric(DriftType.PERFORMANCE, name, None, None, False, reason, details=details)
    fall = round(before - now, 12)
    noise = 2 * sqrt(sum((error or 0.0) ** 2 for error in errors))
    level = limits.level("performance", fall)
    if level is not AlertLevel.NORMAL and fall <= noise:
        level, reason = AlertLevel.NORMAL, f"a fall of {fall:.3f} is within two standard errors"
    details |= {"low": fall - noise, "high": fall + noise}
    return DriftMetric(DriftType.PERFORMANCE, name, fall, level, reason=reason, details=details)
