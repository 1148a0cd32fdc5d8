"""Good versus evil: how a detector does on kinds of prompts it has never seen.

In-distribution numbers mean nothing here (AUC .99 falls to .80 on a held-out family), so a blind
test holds out whole families: by default those that no detector is trained on; with ``families``
those named, and the detector is then trained without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.agents import EvilAgent, LegitimateAgent, Paraphraser
from secmon_dagster.vecsec.corpus import Family, TrainingRow, base_corpus, families
from secmon_dagster.vecsec.detector import SecAgent
from secmon_dagster.vecsec.training import train

FALSE_ALARMS = 0.01
MAX_TESTS = 100_000
_RESAMPLES = 200
_HARD = "hard"

Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


class Scorer(Protocol):
    """Anything that gives prompts a score: higher means attack."""

    def score(self, text: str) -> float:
        """The score of ``text``."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FamilyResult:
    """One family: attacks found (recall at 1 % false alarms), or benign prompts flagged."""

    family: str
    label: int
    prompts: int
    alarms: float
    alarms_at_threshold: float


@dataclass(frozen=True)
class BlindTestResult:
    """What a blind test found.

    Attributes:
        prompts: how many were scored.
        seed: what they were drawn with.
        auc: area under the ROC curve.
        recall: at 1 % false alarms on the test's own benign prompts.
        hard_false_alarms: share of hard negatives flagged at the detector's own threshold.
        threshold: the score that leaves 1 % of the benign prompts above it.
        by_family: each family apart.
        missed: attacks below the detector's own threshold, for learning.
    """

    prompts: int
    seed: int
    auc: Estimate
    recall: Estimate
    hard_false_alarms: Estimate
    threshold: float
    by_family: tuple[FamilyResult, ...]
    missed: tuple[TrainingRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the missed prompts, only their number."""
        fields = asdict(self)
        fields["missed"] = len(self.missed)
        fields["false_alarm_rate"] = FALSE_ALARMS
        return fields


def auc(labels: Labels, scores: Doubles) -> float:
    """Area under the ROC curve: the Mann-Whitney statistic over all pairs, ties counting half."""
    ranks = stats.rankdata(scores)
    positive = int((labels == 1).sum())
    negative = len(labels) - positive
    above = ranks[labels == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def recall_at(labels: Labels, scores: Doubles, rate: float = FALSE_ALARMS) -> tuple[float, float]:
    """Recall where at most ``rate`` of the benign scores lie above the threshold; and that."""
    benign = np.sort(scores[labels == 0])[::-1]
    threshold = float(benign[int(np.floor(rate * len(benign)))])
    return float((scores[labels == 1] > threshold).mean()), threshold


def is_hard(row: TrainingRow) -> bool:
    """Whether a benign prompt is of a family that sounds like attacks."""
    return row.label == 0 and _HARD in row.family


def _interval(
    statistic: Callable[[Labels, Doubles], float], labels: Labels, scores: Doubles, seed: int
) -> Estimate:
    """Bootstrap within each label, so that every resample has both."""
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([rng.choice(side, len(side)) for side in sides if len(side)])
        drawn.append(statistic(labels[chosen], scores[chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(statistic(labels, scores), float(low), float(high))


def evaluate(
    scorer: Scorer, rows: Sequence[TrainingRow], *, threshold: float, seed: int = 0
) -> BlindTestResult:
    """Score ``rows`` and compare with their labels.

    Args:
        threshold: the detector's own, for false alarms on hard negatives and for the misses.

    Raises:
        InvalidInputError: one of the labels is missing.
    """
    labels = np.array([row.label for row in rows], dtype=np.int8)
    for label, name in ((1, "attacks"), (0, "benign prompts")):
        if not (labels == label).any():
            raise InvalidInputError.of(name, 0, "at least one")
    scores = np.array([scorer.score(row.text) for row in rows], dtype=np.float64)
    _, at_rate = recall_at(labels, scores)
    names = np.array([row.family for row in rows])
    hard = np.array([is_hard(row) for row in rows])
    if not hard.any():
        hard = labels == 0
    by_family = tuple(
        FamilyResult(
            family=str(name),
            label=label,
            prompts=int(chosen.sum()),
            alarms=float((scores[chosen] > at_rate).mean()),
            alarms_at_threshold=float((scores[chosen] > threshold).mean()),
        )
        for name in sorted(set(names.tolist()))
        for label in (0, 1)
        if (chosen := (names == name) & (labels == label)).any()
    )
    return BlindTestResult(
        prompts=len(rows),
        seed=seed,
        auc=_interval(auc, labels, scores, seed),
        recall=_interval(lambda y, s: recall_at(y, s)[0], labels, scores, seed),
        hard_false_alarms=_interval(
            lambda _, s: float((s > threshold).mean()), labels[hard], scores[hard], seed
        ),
        threshold=at_rate,
        by_family=by_family,
        missed=tuple(
            row
            for row, score in zip(rows, scores, strict=True)
            if row.label == 1 and score <= threshold
        ),
    )


def blind_families(trained: Iterable[str]) -> tuple[tuple[Family, ...], tuple[Family, ...]]:
    """Attack and benign families left for a blind test of a detector trained on ``trained``."""
    seen = frozenset(trained)
    evil = tuple(f for f in families("blind_attacks") if f.name not in seen)
    honest = tuple(f for f in families("blind_benign") if f.name not in seen)
    return evil, honest


def blind_test(
    detector: SecAgent,
    *,
    tests: int = 1000,
    seed: int = 0,
    held_out: Sequence[str] = (),
    paraphraser: Paraphraser | None = None,
) -> BlindTestResult:
    """Half attacks, half honest prompts, all from families the detector has not seen.

    Args:
        detector: what is tested; with ``held_out`` a fresh one is trained without those families.
        tests: number of prompts, 20 to 100,000.
        seed: the same seed asks the same questions.
        held_out: names of base families to hold out instead of the blind ones.
        paraphraser: rewords every attack before it is disguised.

    Raises:
        InvalidInputError: an unknown family, a number out of range, or nothing left to ask that
            the detector has not been trained on.
    """
    if not 20 <= tests <= MAX_TESTS:
        raise InvalidInputError.of("blind tests", tests, f"20 to {MAX_TESTS}")
    if held_out:
        return _held_out(tests, seed, held_out, paraphraser)
    evil, honest = blind_families(detector.model.families)
    if not evil or not honest:
        raise InvalidInputError(
            "the detector has been trained on every blind family",
            hint="Name base families to hold out: --families direct_override,role_play",
        )
    rows = [
        *EvilAgent(seed=seed, known=evil, paraphraser=paraphraser).prompts(tests // 2),
        *LegitimateAgent(seed=seed, known=honest).prompts(tests - tests // 2),
    ]
    return evaluate(detector, rows, threshold=detector.flag, seed=seed)


def _held_out(
    tests: int, seed: int, held_out: Sequence[str], paraphraser: Paraphraser | None
) -> BlindTestResult:
    base = {family.name: family for family in (*families("attacks"), *families("benign"))}
    unknown = sorted(set(held_out) - set(base))
    if unknown:
        raise InvalidInputError.of("families", ", ".join(unknown), ", ".join(base))
    detector = SecAgent(train([row for row in base_corpus() if row.family not in held_out]))
    evil = [base[name] for name in held_out if base[name].label] or families("blind_attacks")
    honest = [base[name] for name in held_out if not base[name].label] or families("blind_benign")
    rows = [
        *EvilAgent(seed=seed, known=evil, paraphraser=paraphraser).prompts(tests // 2),
        *LegitimateAgent(seed=seed, known=honest).prompts(tests - tests // 2),
    ]
    return evaluate(detector, rows, threshold=detector.flag, seed=seed)
