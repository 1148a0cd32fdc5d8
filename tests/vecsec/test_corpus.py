"""Training rows and the base corpora."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.corpus import base_corpus, families, read_rows


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    assert base_corpus(seed=1) == base_corpus(seed=1)
    assert base_corpus(seed=1) != base_corpus(seed=2)


def test_every_slot_of_every_template_is_filled() -> None:
    for name in ("attacks", "benign", "blind_attacks", "blind_benign"):
        for family in families(name):
            for place in range(len(family.templates)):
                assert family.templates[place].strip()
    assert not [row for row in base_corpus() if "\0" in row.text or "{harm}" in row.text]


def test_blind_families_share_no_name_and_no_prompt_with_the_base_families() -> None:
    base = {f.name for n in ("attacks", "benign") for f in families(n)}
    blind = {f.name for n in ("blind_attacks", "blind_benign") for f in families(n)}
    assert not base & blind
    templates = {t for n in ("attacks", "benign") for f in families(n) for t in f.templates}
    for name in ("blind_attacks", "blind_benign"):
        assert not templates & {t for f in families(name) for t in f.templates}


def test_rows_are_read_and_duplicates_count_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    row = json.dumps({"text": "hello", "label": 0})
    file.write_text(f"{row}\n\n{row}\n")
    (only,) = read_rows([file])
    assert (only.text, only.label, only.family) == ("hello", 0, "mine")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "f.jsonl:1 is no JSON"),
        ("[]", "no JSON object"),
        ('{"text": "", "label": 1}', "text is ''"),
        ('{"label": 1}', "text is None"),
        ('{"text": "a", "label": 2}', "label is 2; allowed: 1"),
        ('{"text": "a", "label": true}', "label is True"),
        ('{"text": "a", "label": 1, "family": 7}', "family is 7"),
    ],
)
def test_a_bad_line_is_named_with_file_number_and_field(
    tmp_path: Path, line: str, complaint: str
) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(line)
    with pytest.raises(InvalidInputError) as refused:
        read_rows([file])
    assert complaint in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.jsonl can't be read"):
        read_rows([tmp_path / "none.jsonl"])
