"""A baseline that is still being collected: KLL sketches per feature, mergeable, then frozen.

While rows still arrive, cuts can't be fixed, so counts on cuts can't be kept. A KLL sketch can: it
holds a bounded number of values and merges over partitions and machines. Freezing gives an ordinary
profile whose sorted values are the sketch's quantiles (``exact`` is False).

References
----------
Karnin, Z., Lang, K. and Liberty, E. (2016). *Optimal Quantile Approximation in Streams*. FOCS.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from datasketches import kll_doubles_sketch

from secmon_dagster.drift.columns import as_columns, kind_of, read_categorical
from secmon_dagster.drift.profile import (
    BaselineProfile,
    FeatureProfile,
    NumericCells,
    read_ordered,
)
from secmon_dagster.drift.statistics.wasserstein import moments
from secmon_dagster.drift.vocabulary import FeatureKind
from secmon_dagster.errors import InvalidInputError

# Rank error below 0.1 %: the PSI of a frozen profile is within 0.001 of the exact one.
ACCURACY = 4000
_QUANTILES = 10_000


class _Feature:
    """What is known of one feature so far."""

    def __init__(self, kind: FeatureKind) -> None:
        self.kind = kind
        self.rows = 0
        self.missing = 0
        self.sketch = kll_doubles_sketch(ACCURACY)
        self.categories: Counter[str] = Counter()
        self.mean = 0.0
        self.spread = 0.0

    def add_moments(self, count: int, mean: float, spread: float) -> None:
        """Add so many values of that mean and that sum of squared distances from it.

        Sums of squares cancel where values lie far from 0, as times do (Chan, Golub and LeVeque,
        1983).
        """
        if not count:
            return
        before = self.rows - self.missing
        gap, share = mean - self.mean, count / (before + count)
        self.spread += spread + gap * gap * before * share
        self.mean += gap * share


class GrowingBaseline:
    """Collects reference rows batch by batch.

    >>> growing = GrowingBaseline()
    >>> growing.update({"x": range(1000)})
    >>> growing.update({"x": range(1000, 2000)})
    >>> growing.freeze().features["x"].rows
    2000
    """

    def __init__(self) -> None:
        self._features: dict[str, _Feature] = {}

    def update(self, data: Any) -> None:
        """Add a batch of rows.

        Raises:
            InvalidInputError: if it has other columns than the batches before, or another kind of
                values in one.
        """
        columns = as_columns(data, "baseline")
        if self._features and set(columns) != set(self._features):
            raise InvalidInputError.of(
                "baseline", f"columns {', '.join(columns)}", ", ".join(self._features)
            )
        # All kinds are known before any count changes: a refused batch leaves nothing behind.
        kinds = {name: kind_of(values, name) for name, values in columns.items()}
        for name, kind in kinds.items():
            known = self._features.get(name)
            if known is not None and known.kind is not kind and not columns[name].isna().all():
                raise InvalidInputError.of(name, f"a {kind} column", str(known.kind))
        for name, values in columns.items():
            feature = self._features.setdefault(name, _Feature(kinds[name]))
            if feature.kind is FeatureKind.CATEGORICAL:
                counted = read_categorical(values, name)
                feature.rows += len(values)
                feature.missing += counted.missing
                feature.categories.update(counted.counts)
                continue
            column = read_ordered(values, name, feature.kind)
            count = len(column.values)
            mean, deviation = moments(column.values) if count else (0.0, 0.0)
            feature.add_moments(count, mean, count * deviation**2 if deviation < 1e150 else np.inf)
            feature.rows += len(values)
            feature.missing += column.missing
            feature.sketch.update(np.array(column.values))  # a copy: it refuses read-only arrays

    def merge(self, other: GrowingBaseline) -> None:
        """Add what another collector saw of the same columns.

        Raises:
            InvalidInputError: if its columns or their kinds differ.
        """
        mine = {name: each.kind for name, each in self._features.items()}
        theirs = {name: each.kind for name, each in other._features.items()}
        if mine and theirs and mine != theirs:
            raise InvalidInputError.of("baseline", f"columns {theirs}", f"columns {mine}")
        for name, found in other._features.items():
            feature = self._features.setdefault(name, _Feature(found.kind))
            feature.add_moments(found.rows - found.missing, found.mean, found.spread)
            feature.rows += found.rows
            feature.missing += found.missing
            feature.categories.update(found.categories)
            feature.sketch.merge(found.sketch)

    def freeze(self) -> BaselineProfile:
        """The profile of everything seen so far; the collector may go on."""
        return BaselineProfile(
            {name: _frozen(name, feature) for name, feature in self._features.items()}
        )


def _frozen(name: str, feature: _Feature) -> FeatureProfile:
    present = feature.rows - feature.missing
    if feature.kind is FeatureKind.CATEGORICAL or present == 0:
        return FeatureProfile(
            name,
            feature.kind,
            feature.kind,
            feature.rows,
            feature.missing,
            categories=dict(feature.categories),
        )
    kept = min(present, _QUANTILES)
    ranks = (np.arange(kept) + 0.5) / kept
    ordered = np.sort(np.asarray(feature.sketch.get_quantiles(ranks.tolist())))
    cells = NumericCells.of(ordered)
    mean, std = feature.mean, float(np.sqrt(feature.spread / present))
    if not (np.isfinite(mean) and np.isfinite(std)):
        mean, std = moments(ordered)
    return FeatureProfile(
        name,
        feature.kind,
        feature.kind,
        feature.rows,
        feature.missing,
        numeric=NumericCells(
            cuts=cells.cuts,
            counts=_scaled(cells.counts, present),
            ordered=ordered,
            exact=False,
            mean=mean,
            std=std,
            scale=cells.scale,
        ),
    )


def _scaled(counts: Any, rows: int) -> Any:
    """Counts of the quantiles as counts of rows: whole numbers with the right sum."""
    exact = counts * (rows / counts.sum())
    whole = np.floor(exact).astype(np.int64)
    short = rows - int(whole.sum())
    whole[np.argsort(whole - exact)[:short]] += 1
    return whole
