"""The two-proportion test: did the share of missing rows change?

References
----------
Fleiss, J., Levin, B. and Paik, M. (2003). *Statistical Methods for Rates and Proportions*, ch. 3.
"""

from __future__ import annotations

from math import sqrt


def two_proportion_p(hits_one: int, rows_one: int, hits_other: int, rows_other: int) -> float:
    """Two-sided p-value of the pooled z-test; 1 where both shares are 0 or both are 1.

    Its square is Pearson's chi-squared of the 2 x 2 table without continuity correction.

    Raises:
        ValueError: if a sample has no rows.

    >>> round(two_proportion_p(10, 100, 20, 100), 4)
    0.0477
    """
    if rows_one <= 0 or rows_other <= 0:
        raise ValueError("a proportion of no rows is not defined")
    pooled = (hits_one + hits_other) / (rows_one + rows_other)
    variance = pooled * (1 - pooled) * (1 / rows_one + 1 / rows_other)
    if variance == 0:
        return 1.0
    z = (hits_one / rows_one - hits_other / rows_other) / sqrt(variance)
    from scipy.stats import norm

    return float(2 * norm.sf(abs(z)))
