"""From a score to a decision: thresholds that keep a promise about false alarms.

A threshold of 1 % false alarms on training data becomes 12 to 20 % elsewhere (measured). So it is
set on the deployment's own benign prompts, by a conformal quantile: of ``n`` exchangeable benign
scores a new one exceeds the ``k``-th smallest with probability ``(n + 1 - k) / (n + 1)`` (Vovk et
al. 2005; for one calibration set the rate is Beta distributed, Vovk 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from secmon_dagster.errors import InvalidInputError

MIN_CALIBRATION = 20
_CONFIDENCE = 0.9
_TAIL = 0.1


@dataclass(frozen=True)
class Threshold:
    """Scores above ``value`` raise an alarm.

    Attributes:
        value: in the units of the score (log-odds).
        rate: the false-alarm rate aimed at.
        samples: how many benign prompts it was set on.
        extrapolated: there were too few of them, so the tail was extended beyond the largest.
    """

    value: float
    rate: float
    samples: int
    extrapolated: bool


def conformal_threshold(benign: npt.ArrayLike, rate: float = 0.01) -> Threshold:
    """The lowest threshold whose false-alarm rate is, with 90 % confidence, at most ``rate``.

    Where ``n`` scores can't carry that confidence (``n < ln 0.1 / ln(1 - rate)``, that is 230 for
    1 %), the upper tenth of the scores is continued as an exponential tail, the limit law of peaks
    over a threshold (Pickands 1975) for the light tails of log-odds.

    Raises:
        InvalidInputError: fewer than ``MIN_CALIBRATION`` scores, one not finite, or a rate outside
            (0, 0.5].
    """
    scores = np.sort(np.asarray(benign, dtype=np.float64).ravel())
    if not 0.0 < rate <= 0.5:
        raise InvalidInputError.of("rate", rate, "above 0, up to 0.5")
    if len(scores) < MIN_CALIBRATION or not np.isfinite(scores).all():
        raise InvalidInputError.of(
            "benign prompts", len(scores), f"at least {MIN_CALIBRATION}, with finite scores"
        )
    n = len(scores)
    ranks = np.arange(1, n + 1)
    # P(rate above the k-th smallest ≤ wanted) for a Beta(n + 1 - k, k) rate.
    sure = np.asarray(stats.beta.cdf(rate, n + 1 - ranks, ranks)) >= _CONFIDENCE
    if sure.any():
        return Threshold(float(scores[int(np.argmax(sure))]), rate, n, extrapolated=False)
    tail = scores[int(n * (1 - _TAIL)) :]
    # The mean of k exponentials is Gamma distributed: its upper bound keeps the confidence.
    unsure = 2 * len(tail) / float(stats.chi2.ppf(1 - _CONFIDENCE, 2 * len(tail)))
    scale = unsure * float(np.mean(tail - tail[0])) or float(np.std(scores)) or 1.0
    # Two estimates, the higher counts: from the tail's foot, and from the largest score, whose own
    # rate is Beta(1, n) distributed.
    rate_of_largest = 1 - (1 - _CONFIDENCE) ** (1 / n)
    value = max(
        float(tail[0]) + scale * float(np.log(_TAIL / rate)),
        float(scores[-1]) + scale * float(np.log(rate_of_largest / rate)),
    )
    return Threshold(value, rate, n, extrapolated=True)
