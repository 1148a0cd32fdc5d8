"""One statistic a module: its formula, its source, and what it does at the edges.

All functions are pure and take counts or sorted arrays; reading columns, choosing cells and
judging the result are the business of other modules.
"""

from secmon_dagster.drift.statistics.categorical import chi2_contingency_p, cramers_v
from secmon_dagster.drift.statistics.divergence import js_distance, kl_divergence
from secmon_dagster.drift.statistics.ks import ks_p_value, ks_statistic
from secmon_dagster.drift.statistics.missing import two_proportion_p
from secmon_dagster.drift.statistics.psi import (
    count_cells,
    numeric_cuts,
    psi,
    psi_gate,
)
from secmon_dagster.drift.statistics.wasserstein import robust_scale, wasserstein

__all__ = [
    "chi2_contingency_p",
    "count_cells",
    "cramers_v",
    "js_distance",
    "kl_divergence",
    "ks_p_value",
    "ks_statistic",
    "numeric_cuts",
    "psi",
    "psi_gate",
    "robust_scale",
    "two_proportion_p",
    "wasserstein",
]
