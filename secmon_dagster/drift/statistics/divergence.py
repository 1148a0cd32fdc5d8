"""Kullback-Leibler divergence and Jensen-Shannon distance of two count vectors.

References
----------
Kullback, S. and Leibler, R. (1951). *Annals of Mathematical Statistics* 22(1).
Lin, J. (1991). *IEEE Transactions on Information Theory* 37(1). (the divergence)
Endres, D. and Schindelin, J. (2003). *IEEE Transactions on Information Theory* 49(7). (its square
root is a metric)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secmon_dagster.drift.statistics.psi import floored_shares

Counts = npt.NDArray[np.int64]


def kl_divergence(of: Counts, relative_to: Counts) -> float:
    """KL(of ‖ relative_to) in nats, never negative.

    Shares are floored at 1e-4 so that an empty cell does not make it infinite, and renormalised so
    that both are distributions; equals ``scipy.stats.entropy`` of the floored shares.

    >>> round(kl_divergence(np.array([50, 50]), np.array([25, 75])), 6)
    0.143841
    """
    p, q = floored_shares(of), floored_shares(relative_to)
    p, q = p / p.sum(), q / q.sum()
    return max(0.0, float(np.sum(p * np.log(p / q))))


def js_distance(one: Counts, other: Counts) -> float:
    """Square root of the Jensen-Shannon divergence, base 2: 0 for equal, 1 for disjoint.

    Nothing is floored: empty cells are no trouble here. Equals
    ``scipy.spatial.distance.jensenshannon(p, q, base=2)``. A tool that uses base e shows the same
    distance multiplied by ``sqrt(ln 2)`` = 0.8326.

    >>> js_distance(np.array([1, 0]), np.array([0, 1]))
    1.0
    """
    p, q = one / one.sum(), other / other.sum()
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return float(np.sqrt(max(0.0, divergence)))


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))
