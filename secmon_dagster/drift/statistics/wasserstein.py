"""The Wasserstein-1 distance, exact, in one pass over two sorted arrays.

.. math:: W_1 = \\int_0^1 |F^{-1}(u) - G^{-1}(u)| \\, du

Both quantile functions are step functions, so the integral is a sum over the pieces between the
breakpoints i/n and j/m. Which pieces there are depends on n and m alone: the plan is made once for
all columns of a check. All terms are positive, so nothing cancels; no merge of the two arrays is
needed, unlike the integral of |F - G|.

References
----------
Ramdas, A., García Trillos, N. and Cuturi, M. (2017). *Entropy* 19(2), 47.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BLOCK = 65_536
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class _Plan:
    """How N larger-side rows lie on M <= N smaller-side rows.

    Larger row *t* covers ``[t*M, (t+1)*M)`` in units of 1/(N*M), smaller row *k* covers
    ``[k*N, (k+1)*N)``. As M <= N a larger row touches one smaller row, ``low[t]``, or that and the
    next; the latter are ``split``, with weight ``beyond`` in the next.
    """

    low: npt.NDArray[np.int32]
    split: npt.NDArray[np.int64]
    beyond: Floats


@lru_cache(maxsize=4)
def _plan(larger: int, smaller: int) -> _Plan:
    start = np.arange(larger, dtype=np.int64) * smaller
    low = start // larger
    split = np.flatnonzero((start + smaller - 1) // larger != low)
    beyond = (start[split] + smaller - (low[split] + 1) * larger).astype(np.float64)
    return _Plan(low.astype(np.int32), split, beyond)


def wasserstein(one: Floats, other: Floats) -> float:
    """W1 of two ascending arrays, shapes ``(n,)`` and ``(m,)``, both not empty; in their unit.

    Equals ``scipy.stats.wasserstein_distance``.

    >>> wasserstein(np.array([0.0, 1.0]), np.array([0.5, 1.5, 2.5, 3.5]))
    1.5
    """
    large, small = (one, other) if len(one) >= len(other) else (other, one)
    plan = _plan(len(large), len(small))
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(large), _BLOCK):
            block = slice(start, start + _BLOCK)
            difference = small.take(plan.low[block])
            np.subtract(large[block], difference, out=difference)
            np.abs(difference, out=difference)
            total += float(difference.sum())
        rows = large[plan.split]
        low = plan.low[plan.split]
        moved = np.abs(rows - small[low + 1]) - np.abs(rows - small[low])
        distance = (total * len(small) + float(moved @ plan.beyond)) / (len(large) * len(small))
    if np.isfinite(distance):
        return distance
    # Near the largest floats a difference or a sum overflows, and the distance itself may too.
    peak = float(max(np.abs(one).max(), np.abs(other).max()))
    return min(wasserstein(one / peak, other / peak) * peak, LARGEST)


def robust_scale(ordered: Floats) -> float | None:
    """Interquartile range / 1.349 (the standard deviation, were it normal); None for a constant.

    One outlier does not move it, unlike the standard deviation. Where the middle half of the rows
    is one value, the standard deviation takes its place.

    Args:
        ordered: Ascending values, shape ``(n,)``, not empty.
    """
    low, high = (float(edge) for edge in np.quantile(ordered, [0.25, 0.75]))
    if high > low:
        return min((high - low) / 1.349, LARGEST)
    return moments(ordered)[1] or None


def moments(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation, finite for finite values.

    >>> moments(np.array([1e308, 1e308]))
    (1e+308, 0.0)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(values.mean()), float(values.std())
    if np.isfinite(mean) and np.isfinite(deviation):
        return mean, deviation
    peak = float(np.abs(values).max())
    mean, deviation = moments(values / peak)
    return mean * peak, deviation * peak
