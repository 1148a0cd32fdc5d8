"""Labelled prompts: rows of a JSONL file, and the base corpora written for this project.

The base corpora (``data/*.yaml``) are families of templates with slots. A family is either an
attack or benign; the blind families are never trained on.
"""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.views import MAX_CHARACTERS

DATA = Path(__file__).parent / "data"
_SLOT = re.compile(r"\{(\w+)\}")
_DEPTH = 4  # a slot's value may hold slots, not for ever


@dataclass(frozen=True)
class TrainingRow:
    """One labelled prompt.

    Attributes:
        text: the prompt.
        label: 1 attack, 0 benign.
        family: where it comes from; the unit that tests hold out.
        attack_type: of an attack, where known.
        source: who labelled it; learning caps how much one source may say.
    """

    text: str
    label: int
    family: str
    attack_type: AttackType = AttackType.NONE
    source: str = "file"


@dataclass(frozen=True)
class Family:
    """Templates of one kind of prompt.

    To add a family, make an instance, or subclass and override :meth:`prompt`, and hand it to an
    agent.

    Attributes:
        name: unique among families.
        attack_type: what its prompts are after; ``NONE`` for benign.
        templates: texts with ``{slots}``; ``{{`` and ``}}`` stand for braces.
        slots: what may fill them; values may hold slots themselves.
    """

    name: str
    attack_type: AttackType
    templates: Sequence[str]
    slots: Mapping[str, Sequence[str]]

    @property
    def label(self) -> int:
        return int(self.attack_type is not AttackType.NONE)

    def prompt(self, rng: Random, template: int | None = None) -> str:
        """One prompt, from template number ``template`` or from any."""
        text = self.templates[rng.randrange(len(self.templates)) if template is None else template]
        text = text.replace("{{", "\0").replace("}}", "\1")
        for _ in range(_DEPTH):
            text = _SLOT.sub(lambda slot: rng.choice(self.slots[slot.group(1)]), text)
        return text.replace("\0", "{").replace("\1", "}")

    def rows(self, rng: Random, per_template: int) -> Iterator[TrainingRow]:
        """Up to ``per_template`` different prompts of each template."""
        for template in range(len(self.templates)):
            prompts = {self.prompt(rng, template): None for _ in range(per_template)}
            for text in prompts:
                yield TrainingRow(text, self.label, self.name, self.attack_type, "base")


@cache
def families(name: str) -> tuple[Family, ...]:
    """The families of ``data/<name>.yaml``: attacks, benign, blind_attacks or blind_benign."""
    parsed: dict[str, Any] = yaml.safe_load((DATA / f"{name}.yaml").read_text("utf-8"))
    return tuple(
        Family(
            family,
            AttackType(spec.get("attack_type", AttackType.NONE)),
            tuple(spec["templates"]),
            parsed["slots"],
        )
        for family, spec in parsed["families"].items()
    )


def base_corpus(*, seed: int = 0, per_template: int = 8) -> list[TrainingRow]:
    """What every detector starts from; the same rows for the same seed."""
    rng = Random(seed)  # noqa: S311 - reproducible, not secret
    known = (*families("attacks"), *families("benign"))
    rows = [row for family in known for row in family.rows(rng, per_template)]
    return rows + list(_gibberish(rng, rows))


def _gibberish(rng: Random, rows: list[TrainingRow]) -> Iterator[TrainingRow]:
    """Encoded harmless text, ids and numbers: what can't be read is no attack for that alone.

    What is behind an encoding is judged by its decoded view.
    """
    benign = [row.text for row in rows if row.label == 0]
    for text in rng.sample(benign, 40):
        raw = text.encode()
        for encoded in (
            base64.b64encode(raw).decode(),
            raw.hex(),
            text[::-1],
            codecs.encode(text, "rot13"),
            f"{rng.getrandbits(128):032x} {rng.randrange(10**9)}",
        ):
            yield TrainingRow(encoded, 0, "gibberish", AttackType.NONE, "base")


def read_rows(files: Iterable[Path]) -> list[TrainingRow]:
    """Rows of JSONL files: ``{"text": …, "label": 0|1, "family": …}``; duplicates count once.

    Raises:
        InvalidInputError: naming file, line, field and what is allowed.
    """
    rows: dict[tuple[str, int], TrainingRow] = {}
    for file in files:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as unreadable:
            raise InvalidInputError(f"{file} can't be read: {unreadable}") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = _row(line, f"{file}:{number}", file.stem)
                rows.setdefault((row.text, row.label), row)
    return list(rows.values())


def _row(line: str, place: str, default_family: str) -> TrainingRow:
    try:
        raw = json.loads(line)
    except ValueError as broken:
        raise InvalidInputError(f"{place} is no JSON: {broken}") from None
    if not isinstance(raw, dict):
        raise InvalidInputError(f"{place} is no JSON object")
    text, label, family = raw.get("text"), raw.get("label"), raw.get("family", default_family)
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_CHARACTERS:
        found = text if text is None or not isinstance(text, str) else text[:40]
        raise InvalidInputError.of(
            f"{place}: text", found, f"a text of 1 to {MAX_CHARACTERS} characters"
        )
    if isinstance(label, bool) or label not in (0, 1):
        raise InvalidInputError.of(f"{place}: label", label, "1 (attack) or 0 (benign)")
    if not isinstance(family, str) or not family:
        raise InvalidInputError.of(f"{place}: family", family, "a name")
    return TrainingRow(text, int(label), family)
