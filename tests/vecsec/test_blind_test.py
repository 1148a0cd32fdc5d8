"""Measuring on families never seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec import (
    EvilAgent,
    Family,
    LegitimateAgent,
    SecAgent,
    TrainingRow,
    Transform,
    blind_test,
    evaluate,
)
from secmon_dagster.vecsec.blind_test import auc, recall_at
from secmon_dagster.vecsec.rules import AttackType


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=4, max_size=60))
@settings(max_examples=60)
def test_auc_agrees_with_scikit_learn_ties_included(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([0, 1, *[p[0] for p in pairs]], dtype=np.int8)
    scores = np.array([0.0, 0.5, *[float(p[1]) for p in pairs]])
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_recall_at_a_rate_lets_no_more_benign_scores_pass() -> None:
    labels = np.array([0] * 100 + [1] * 10, dtype=np.int8)
    scores = np.arange(110.0)
    recall, threshold = recall_at(labels, scores, 0.05)
    assert recall == 1.0
    assert (scores[:100] > threshold).mean() == 0.05


def test_the_same_seed_asks_the_same_questions_and_finds_the_same(agent: SecAgent) -> None:
    one, two = blind_test(agent, tests=60, seed=3), blind_test(agent, tests=60, seed=3)
    assert one == two
    assert one.prompts == 60


def test_a_blind_test_beats_chance_by_far_on_unseen_families(agent: SecAgent) -> None:
    result = blind_test(agent, tests=400, seed=5)
    assert result.auc.value > 0.85
    assert result.auc.low <= result.auc.value <= result.auc.high
    assert result.hard_false_alarms.value <= 0.05
    assert {family.label for family in result.by_family} == {0, 1}


def test_no_prompt_of_a_blind_test_has_been_trained_on(agent: SecAgent) -> None:
    result = blind_test(agent, tests=200, seed=1)
    assert not {family.family for family in result.by_family} & agent.model.families


def test_held_out_families_are_not_in_the_detector_that_is_tested(agent: SecAgent) -> None:
    result = blind_test(agent, tests=60, seed=0, held_out=["prompt_extraction"])
    assert {f.family for f in result.by_family if f.label == 1} == {"prompt_extraction"}


def test_an_unknown_family_is_refused_and_the_known_ones_listed(agent: SecAgent) -> None:
    with pytest.raises(InvalidInputError, match="families is 'nope'; allowed: direct_override"):
        blind_test(agent, tests=60, held_out=["nope"])


@pytest.mark.parametrize("tests", [0, 19, 100_001])
def test_a_number_of_tests_out_of_range_is_refused(agent: SecAgent, tests: int) -> None:
    with pytest.raises(InvalidInputError, match=f"blind tests is {tests}"):
        blind_test(agent, tests=tests)


def test_one_label_alone_can_not_be_evaluated(agent: SecAgent) -> None:
    with pytest.raises(InvalidInputError, match="attacks is 0"):
        evaluate(agent, [TrainingRow("hello", 0, "f")], threshold=0.0)


def test_agents_are_seeded_and_balanced_over_families() -> None:
    assert list(EvilAgent(seed=1).prompts(20)) == list(EvilAgent(seed=1).prompts(20))
    rows = list(LegitimateAgent(seed=1).prompts(30))
    assert {row.label for row in rows} == {0}
    assert len({row.family for row in rows}) == 3


def test_a_family_of_ones_own_is_handed_to_the_agent() -> None:
    mine = Family("mine", AttackType.JAILBREAK, ("do {x} {{now}}",), {"x": ("this",)})
    (row,) = EvilAgent(known=[mine], disguised=0).prompts(1)
    assert (row.text, row.label, row.attack_type) == ("do this {now}", 1, AttackType.JAILBREAK)


def test_a_transform_of_ones_own_is_found_by_its_name_and_names_are_unique() -> None:
    class Shout(Transform):
        name = "shout"

        def apply(self, text: str, rng: object) -> str:
            return text.upper()

    try:
        assert Transform.known["shout"].apply("a", None) == "A"  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="transform is 'shout'"):
            type("Again", (Shout,), {"name": "shout"})
    finally:
        del Transform.known["shout"]


def test_a_paraphraser_rewords_before_the_disguise() -> None:
    class Echo:
        def paraphrase(self, prompt: str) -> str:
            return "reworded"

    assert [row.text for row in EvilAgent(disguised=0, paraphraser=Echo()).prompts(2)] == [
        "reworded",
        "reworded",
    ]
