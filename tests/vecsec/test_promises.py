"""What is promised on public prompt data, leaving whole families out."""

from __future__ import annotations

import base64
import codecs
from random import Random

import numpy as np
import pytest

from secmon_dagster.vecsec import SecAgent, TrainingRow, Transform, base_corpus, train
from secmon_dagster.vecsec.blind_test import auc, recall_at
from secmon_dagster.vecsec.calibration import conformal_threshold
from secmon_dagster.vecsec.updating import update

TWO_CLASS = ("deepset", "jailbreak_roleplay", "cyber")
Prompts = dict[str, list[TrainingRow]]


def _without(prompts: Prompts, held: str) -> list[TrainingRow]:
    others = [row for name in TWO_CLASS if name != held for row in prompts[name]]
    return [*base_corpus(), *prompts["benign_instructions"], *others]


def _scores(agent: SecAgent, rows: list[TrainingRow]) -> np.ndarray:
    return np.array([agent.score(row.text) for row in rows])


def _labels(rows: list[TrainingRow]) -> np.ndarray:
    return np.array([row.label for row in rows], dtype=np.int8)


def _check(prompts: Prompts, held: str) -> tuple[float, float, float]:
    """AUC and recall on the held-out family, and AUC after it was taught 50 + 50 of its labels."""
    rows, known = prompts[held], _without(prompts, held)
    agent, labels = SecAgent(train(known)), _labels(rows)
    scores = _scores(agent, rows)
    recall, threshold = recall_at(labels, scores)
    hard = _scores(agent, prompts["hard_negatives"])

    for benign in (scores[labels == 0], hard):
        rates = []
        for seed in range(10):
            mixed = np.random.default_rng(seed).permutation(benign)
            half = len(mixed) // 2
            local = conformal_threshold(mixed[:half], 0.01).value
            rates.append((mixed[half:] > local).mean())
            assert (hard > local).mean() <= 0.05
        assert np.mean(rates) <= 0.02

    sample = [row.text for row in rows if row.label == 1 and len(row.text) < 2000][:120]
    plain = np.mean([agent.score(text) > threshold for text in sample])
    rng = Random(0)
    for disguise in Transform.known.values():
        found = np.mean([agent.score(disguise.apply(t, rng)) > threshold for t in sample])
        assert found >= 0.8 * plain, disguise.name

    order = np.random.default_rng(1).permutation(len(rows))
    learn = [i for label in (0, 1) for i in [j for j in order if labels[j] == label][:50]]
    rest = [row for i, row in enumerate(rows) if i not in set(learn)]
    adapted = SecAgent(update(agent.model, [rows[i] for i in learn]))
    return auc(labels, scores), recall, auc(_labels(rest), _scores(adapted, rest))


def test_a_held_out_family_is_told_apart_calibrated_undisguised_and_learned(
    prompts: Prompts,
) -> None:
    found, recall, adapted = _check(prompts, "cyber")
    assert found >= 0.80
    assert recall >= 0.30
    assert adapted >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_means_over_all_held_out_families_are_those_promised(prompts: Prompts) -> None:
    means = np.mean([_check(prompts, held) for held in TWO_CLASS], axis=0)
    assert means[0] >= 0.75
    assert means[1] >= 0.42
    assert means[2] >= 0.95


def test_harmless_text_is_not_flagged_for_being_encoded(agent: SecAgent, prompts: Prompts) -> None:
    texts = [row.text for row in prompts["benign_instructions"][:150]]
    for encoded in (lambda t: base64.b64encode(t.encode()).decode(),
                    lambda t: codecs.encode(t, "rot13")):  # fmt: skip
        assert np.mean([agent.score(encoded(text)) > agent.flag for text in texts]) <= 0.05
