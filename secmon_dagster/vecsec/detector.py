"""``SecAgent``: one prompt in, one verdict out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from secmon_dagster.vecsec.features import Features, Floats, features_of
from secmon_dagster.vecsec.model import DetectorModel
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.training import NEAREST, WINDOW
from secmon_dagster.vecsec.views import View, ViewKind, views_of

_STEP = WINDOW * 3 // 4
_DECODED_FROM = frozenset(ViewKind) - {ViewKind.CANONICAL}


class Verdict(StrEnum):
    """What to do with a prompt."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"


@dataclass(frozen=True)
class Nearest:
    """The known pattern most like the prompt."""

    pattern_id: str
    text: str
    label: int
    similarity: float


@dataclass(frozen=True)
class Analysis:
    """A verdict and what it rests on.

    Attributes:
        verdict: allow, flag or block.
        score: calibrated log-odds of an attack; the highest over all views.
        probability: the same in (0, 1).
        attack_type: what it is after; ``NONE`` where allowed.
        reasons: rules that matched and disguises that were undone, in plain words.
        view: the reading that scored highest.
        similarity: cosine to the nearest known attack, in [-1, 1].
        margin: likeness to attacks minus likeness to benign prompts.
        nearest: the most similar known pattern of either label.
        decided_by: ``local``, or who was asked where the score was uncertain.
    """

    verdict: Verdict
    score: float
    probability: float
    attack_type: AttackType
    reasons: tuple[str, ...]
    view: ViewKind
    similarity: float
    margin: float
    nearest: Nearest | None
    decided_by: str = "local"


@dataclass(frozen=True)
class _Scored:
    score: float
    margin: float
    similarity: float
    nearest: int
    nearest_attack: int
    view: View
    features: Features
    likeness: Floats


class SecAgent:
    """The detector.

    Args:
        model: what it has learned.
        flag: log-odds above which a prompt is flagged; the model's own threshold if not given.
        block: log-odds above which it is blocked, likewise.
    """

    def __init__(
        self, model: DetectorModel, *, flag: float | None = None, block: float | None = None
    ) -> None:
        self.model = model
        self.flag = model.flag if flag is None else flag
        self.block = max(self.flag, model.block if block is None else block)
        attacks = model.patterns.labels == 1
        # Attacks first, so that both sides of the margin are contiguous slices.
        self._order = np.argsort(~attacks, kind="stable")
        self._vectors = np.ascontiguousarray(model.patterns.vectors[self._order])
        self._attacks = int(attacks.sum())

    @classmethod
    def load(cls, path: Path) -> SecAgent:
        """The detector saved at ``path``."""
        return cls(DetectorModel.load(path))

    def score(self, text: str) -> float:
        """Calibrated log-odds that ``text`` is an attack."""
        return self._highest(text).score

    def analyze(self, text: str) -> Analysis:
        """The verdict on ``text``.

        Raises:
            InvalidInputError: the text is longer than 4,194,304 characters.
        """
        found = self._highest(text)
        verdict = (
            Verdict.BLOCK
            if found.score > self.block
            else Verdict.FLAG
            if found.score > self.flag
            else Verdict.ALLOW
        )
        patterns = self.model.patterns
        index = int(self._order[found.nearest]) if found.nearest >= 0 else -1
        nearest = None
        if index >= 0:
            nearest = Nearest(
                patterns.ids[index],
                patterns.texts[index],
                int(patterns.labels[index]),
                float(found.likeness[found.nearest]),
            )
        return Analysis(
            verdict=verdict,
            score=found.score,
            probability=float(1.0 / (1.0 + np.exp(-found.score))),
            attack_type=AttackType.NONE if verdict is Verdict.ALLOW else self._attack_type(found),
            reasons=_reasons(found),
            view=found.view.kind,
            similarity=found.similarity,
            margin=found.margin,
            nearest=nearest,
        )

    def _highest(self, text: str) -> _Scored:
        readings = views_of(text, self.model.vocabulary)
        scored = [self._score(window) for view in readings for window in _windows(view)]
        return max(scored, key=lambda one: one.score)

    def _score(self, view: View) -> _Scored:
        features = features_of(view)
        likeness = self._vectors @ self.model.embedder.embed(features, view.text)
        attacks, benign = likeness[: self._attacks], likeness[self._attacks :]
        margin = float(_top(attacks) - _top(benign))
        linear_weight, margin_weight, bias = self.model.combine
        return _Scored(
            score=linear_weight * self.model.linear(features) + margin_weight * margin + bias,
            margin=margin,
            similarity=float(attacks.max(initial=-1.0)),
            nearest=int(likeness.argmax()) if len(likeness) else -1,
            nearest_attack=int(attacks.argmax()) if len(attacks) else -1,
            view=view,
            features=features,
            likeness=likeness,
        )

    def _attack_type(self, found: _Scored) -> AttackType:
        """The type that the matching rules weigh most for, else that of the nearest attack."""
        votes: dict[AttackType, float] = {}
        for rule in found.features.rules:
            weight = max(float(self.model.dense[rule.position]), 0.0)
            votes[rule.attack_type] = votes.get(rule.attack_type, 0.0) + weight
        if votes and max(votes.values()) > 0:
            return max(votes, key=lambda kind: votes[kind])
        if found.view.kind in _DECODED_FROM:
            return AttackType.OBFUSCATION
        if found.nearest_attack >= 0:
            kind = self.model.patterns.attack_types[int(self._order[found.nearest_attack])]
            if kind is not AttackType.NONE:
                return kind
        return AttackType.PROMPT_INJECTION


def _top(likeness: Floats) -> float:
    if len(likeness) <= NEAREST:
        return float(likeness.mean()) if len(likeness) else 0.0
    return float(np.partition(likeness, -NEAREST)[-NEAREST:].mean())


def _windows(view: View) -> list[View]:
    """A long view in overlapping pieces, so that an attack can't hide in a long document."""
    if len(view.text) <= WINDOW:
        return [view]
    scale = len(view.cleaned) / len(view.text)
    return [
        View(
            view.kind,
            view.text[start : start + WINDOW],
            view.cleaned[int(start * scale) : int((start + WINDOW) * scale)],
            view.disguise,
        )
        for start in range(0, len(view.text) - WINDOW + _STEP, _STEP)
    ]


def _reasons(found: _Scored) -> tuple[str, ...]:
    reasons = [rule.name for rule in found.features.rules]
    if found.view.kind in _DECODED_FROM:
        reasons.append(f"read as {found.view.kind}")
    disguise = found.view.disguise
    for count, what in (
        (disguise.invisible, "invisible characters"),
        (disguise.lookalikes, "look-alike letters"),
        (disguise.bidi, "bidirectional overrides"),
        (disguise.controls, "control characters"),
    ):
        if count:
            reasons.append(f"{count} {what}")
    return tuple(reasons)
