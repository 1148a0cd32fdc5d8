"""The population stability index, definition ``psi-v1``.

.. math:: \\mathrm{PSI} = \\sum_c (q_c - p_c) \\ln (q_c / p_c)

with :math:`p` the reference's and :math:`q` the current window's share of cell *c*, both floored
at 1e-4 and not renormalised.

Cells of a numeric feature come from the reference alone: its nine inner deciles (``np.quantile``,
linear), right-closed, the outer two open. A decile that repeats (a value holding a tenth of the
rows or more) is a cell of its own. Dropping the repeat instead, as textbooks do, hides rows that
move from the value to just below it: both fall in one cell.

References
----------
Siddiqi, N. (2006). *Credit Risk Scorecards*. Wiley. (levels 0.1 and 0.25)
Yurdakul, B. (2018). *Statistical Properties of Population Stability Index*. Western Michigan
University, dissertation 3208. (PSI / (1/n + 1/m) tends to chi-squared with B - 1 degrees)
du Pisanie, J. et al. (2023). arXiv:2307.11878. (fixed levels call too often in small samples)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

DEFINITION = "psi-v1"
BINS = 10
FLOOR = 1e-4
GATE_CONFIDENCE = 0.99

# Long enough to amortise a call, short enough to stay in the cache while each cut passes over it.
_BLOCK = 32_768


def numeric_cuts(ordered: Floats) -> Floats:
    """Upper bounds (inclusive) of all cells but the last, ascending, from sorted values.

    Args:
        ordered: The reference's finite values, ascending, shape ``(n,)``, n >= 1.

    Returns:
        Shape ``(k,)``: cell *i* is ``(cuts[i-1], cuts[i]]``, the outer two unbounded. A repeated
        decile *u* gives two cuts, the float just below *u* and *u*, so that ``{u}`` is a cell.

    >>> numeric_cuts(np.arange(11.0))
    array([1., 2., 3., 4., 5., 6., 7., 8., 9.])
    >>> len(numeric_cuts(np.full(5, 7.0)))
    2
    """
    at = np.arange(1, BINS) / BINS
    with np.errstate(over="ignore", invalid="ignore"):
        deciles = np.quantile(ordered, at)
    if not np.isfinite(deciles).all():  # between two values further apart than a float can say
        peak = np.abs(ordered).max()
        deciles = np.quantile(ordered / peak, at) * peak
    edges, repeats = np.unique(deciles, return_counts=True)
    below = np.nextafter(edges[repeats > 1], -np.inf)
    return np.unique(np.concatenate([edges, below]))


def count_cells(values: Floats, cuts: Floats, *, ordered: bool = False) -> Counts:
    """Rows per cell: integers, so they add up over partitions exactly.

    Args:
        values: Finite values, shape ``(n,)``.
        cuts: From :func:`numeric_cuts`, shape ``(k,)``.
        ordered: Whether ``values`` is ascending; then each cut is a binary search, otherwise one
            comparison per value and cut, which is still far cheaper than a sort.

    Returns:
        Shape ``(k + 1,)``, sum n.

    >>> count_cells(np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.5]))
    array([1, 1, 1])
    """
    if ordered:
        upto = np.searchsorted(values, cuts, side="right")
    else:
        upto = np.zeros(len(cuts), dtype=np.int64)
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            for index, cut in enumerate(cuts):
                upto[index] += np.count_nonzero(block <= cut)
    return np.diff(upto, prepend=0, append=len(values)).astype(np.int64)


def floored_shares(counts: Counts) -> Floats:
    """Shares of the total, none below 1e-4; not renormalised.

    Raises:
        ValueError: if there are no rows.
    """
    total = int(counts.sum())
    if total <= 0:
        raise ValueError("shares of no rows are not defined")
    return np.maximum(counts / total, FLOOR)


def psi(reference: Counts, current: Counts) -> float:
    """PSI of two count vectors on the same cells, each shape ``(k,)`` with at least one row.

    >>> round(psi(np.array([50, 50]), np.array([60, 40])), 6)
    0.040547
    """
    p, q = floored_shares(reference), floored_shares(current)
    return float(np.sum((q - p) * np.log(q / p)))


@lru_cache(maxsize=4096)
def _chi2_quantile(degrees: int) -> float:
    from scipy.stats import chi2

    return float(chi2.ppf(GATE_CONFIDENCE, degrees))


def psi_gate(cells: int, n: int, m: int) -> float:
    """The PSI that samples of these sizes reach by chance once in a hundred times.

    ``chi2.ppf(0.99, cells - 1) * (1/n + 1/m)``: a PSI at or below it says nothing.

    >>> round(psi_gate(10, 10_000, 100), 4)
    0.2188
    """
    return _chi2_quantile(max(cells - 1, 1)) * (1 / n + 1 / m)
