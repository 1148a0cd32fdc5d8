"""Rows that follow one another are alike: how much that widens what chance does to a window.

The sample-size gate counts rows as if they were drawn apart. In a stream they are not: an hour of
measurements is a handful of independent ones, and every window of it would be an alarm. The
reference shows how much: cut into blocks of consecutive rows, its blocks differ from the whole by a
chi-squared whose mean is ``ratio`` times what independent rows give (the design effect of survey
statistics), and whose spread gives the degrees of freedom it really has. The gate of a window is
widened by what blocks of the window's length show.

Nothing is widened where the order of the reference says nothing about time: where its rows are
exchangeable, where the blocks' differences keep growing with their length (rows sorted by a class,
two samples put behind one another, a trend), or where the window itself shows none of it.

References
----------
Rao, J. and Scott, A. (1981). *Journal of the American Statistical Association* 76(374).
Satterthwaite, F. (1946). *Biometrics Bulletin* 2(6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

_SHORTEST = 8
_FEWEST_ROWS = 640
_LEVELS = 16
_COARSEST = 8
_SIGNIFICANT = 1e-4
# Blocks four times as long: four times the excess for sorted rows, about the same for a stream.
_STILL_GROWING = 2.5
_WINDOW_BLOCKS = 8
_VISIBLE = 2.0


@dataclass(frozen=True)
class Dispersion:
    """By block length, ascending: the ratio to independent rows, and the degrees of freedom."""

    rows: tuple[int, ...]
    ratios: tuple[float, ...]
    degrees: tuple[float, ...]

    def ratio(self, rows: float) -> float:
        """By how much a window of that length differs more than independent rows; at least 1."""
        return max(1.0, self._at(rows, self.ratios))

    def _at(self, rows: float, values: tuple[float, ...]) -> float:
        return float(np.interp(np.log(max(rows, 1)), np.log(self.rows), values))

    def applies(self, clustering: float | None, rows: int) -> bool:
        """Whether a window of that length is of the reference's kind; see :func:`clustering`."""
        # What its parts differ by from one another is what they and the whole differ by from all.
        parts = _WINDOW_BLOCKS * self.ratio(rows / _WINDOW_BLOCKS) - self.ratio(rows)
        expected = parts / (_WINDOW_BLOCKS - 1)
        if clustering is None or expected < _VISIBLE:
            return True
        return clustering >= 1 + (expected - 1) / 5

    def p_value(self, chi2: float, cells: int, rows: int) -> float:
        """How often such a window differs by this Pearson statistic or more by chance."""
        from scipy.stats import f

        scaled = chi2 / (self.ratio(rows) * max(cells - 1, 1))
        return float(f.sf(scaled, self._at(rows, self.degrees), self._known_by(rows)))

    def widening(self, cells: int, rows: int, confidence: float) -> float:
        """The factor on the quantile that independent rows give; at least 1."""
        from scipy.stats import chi2, f

        df = max(cells - 1, 1)
        quantile = float(f.ppf(confidence, self._at(rows, self.degrees), self._known_by(rows)))
        return max(1.0, self.ratio(rows) * df * quantile / float(chi2.ppf(confidence, df)))

    def _known_by(self, rows: int) -> float:
        """Degrees of freedom of the ratio itself, which so many blocks are the evidence for."""
        return max(1.0, self.rows[-1] * _COARSEST / rows) * self._at(rows, self.degrees)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {name: list(getattr(self, name)) for name in ("rows", "ratios", "degrees")}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Dispersion:
        """The value :meth:`to_json` came from."""
        return cls(tuple(body["rows"]), tuple(body["ratios"]), tuple(body["degrees"]))


def dispersion(codes: Codes) -> Dispersion | None:
    """What the blocks of a reference show; None where its order says nothing.

    Args:
        codes: The cell of each row, in the rows' order, shape ``(n,)``, 0 and up.
    """
    n = len(codes)
    if n < _FEWEST_ROWS or codes.min() == codes.max():
        return None
    longest = n / _COARSEST
    levels = min(_LEVELS, 1 + int(2 * np.log2(longest / _SHORTEST)))
    lengths = [int(longest / 2 ** (level / 2)) for level in range(levels)]
    blocks = [_block_chi2(codes, length) for length in lengths]
    df = len(np.unique(codes)) - 1
    ratios = [float(found.mean()) / df for found in blocks]
    if not _depends_on_order(blocks, df) or _keeps_growing(ratios):
        return None
    return Dispersion(
        tuple(reversed(lengths)),
        tuple(round(ratio, 6) for ratio in reversed(ratios)),
        tuple(round(degrees, 6) for degrees in reversed(_degrees(blocks, df))),
    )


def _degrees(blocks: list[Floats], df: int) -> list[float]:
    """Satterthwaite's degrees of freedom at each length, from it and the two beside it.

    A chi-squared of h degrees has a variance of 2 / h of its squared mean."""
    weights = np.array([len(found) for found in blocks], dtype=np.float64)
    inverse = np.array([found.var(ddof=1) / (2 * found.mean() ** 2) for found in blocks])
    smooth = []
    for level in range(len(blocks)):
        near = slice(max(0, level - 1), level + 2)
        smooth.append(float(np.average(inverse[near], weights=weights[near])))
    return [float(np.clip(1 / max(each, 1e-9), 1.0, df)) for each in smooth]


def clustering(codes: Codes) -> float | None:
    """The ratio of a window's own eight parts to independent rows; None if it is too short."""
    if len(codes) < _WINDOW_BLOCKS * 4 or codes.min() == codes.max():
        return None
    found = _block_chi2(codes, len(codes) // _WINDOW_BLOCKS)
    return float(found.mean()) / (len(np.unique(codes)) - 1)


def _block_chi2(codes: Codes, length: int) -> Floats:
    """Pearson's statistic of each block against the whole, in what it would be of a whole that the
    block is no part of; shape ``(n // length,)``."""
    _, dense = np.unique(codes, return_inverse=True)
    cells = int(dense.max()) + 1
    count = len(codes) // length
    used = dense[: count * length]
    keys = np.repeat(np.arange(count), length) * cells + used
    table = np.bincount(keys, minlength=count * cells).reshape(count, cells)
    expected = length * np.bincount(dense, minlength=cells) / len(codes)
    apart = 1 - length / len(codes)
    return np.asarray((((table - expected) ** 2) / expected).sum(axis=1) / apart)


def _depends_on_order(blocks: list[Floats], df: int) -> bool:
    if all(float(found.mean()) < 1.05 * df for found in blocks):
        return False  # spares the import
    from scipy.stats import chi2 as distribution

    return any(
        float(distribution.sf(found.sum() * (1 - 1 / len(found)), (len(found) - 1) * df))
        < _SIGNIFICANT
        for found in blocks
    )


def _keeps_growing(ratios: list[float]) -> bool:
    """Whether the longest blocks differ most, and far more than those a quarter as long."""
    excess = [ratio - 1 for ratio in ratios]
    return excess[0] == max(excess) and excess[0] > _STILL_GROWING * max(excess[4], 0.0)
