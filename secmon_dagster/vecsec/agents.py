"""Attacker and honest user: seeded, endless, and made of families that can be held out whole.

``EvilAgent`` fills the templates of attack families and may disguise what it wrote; with a language
model behind :class:`Paraphraser` it may reword too. ``LegitimateAgent`` asks what people ask:
everyday questions, role-play, security work and prompts that only sound like attacks.

A new family is an instance (or subclass) of :class:`~secmon_dagster.vecsec.corpus.Family`; a new
disguise subclasses :class:`Transform` and names itself.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import ClassVar, Protocol

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.corpus import Family, TrainingRow
from secmon_dagster.vecsec.corpus import families as families_of


class Paraphraser(Protocol):
    """Rewords a prompt, for instance with a language model."""

    def paraphrase(self, prompt: str) -> str:
        """The same request in other words."""


class Transform:
    """A disguise. Subclasses name themselves and are found by that name."""

    name: ClassVar[str]
    known: ClassVar[dict[str, Transform]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.name in Transform.known:
            raise InvalidInputError.of("transform", cls.name, "a name not taken yet")
        Transform.known[cls.name] = cls()

    def apply(self, text: str, rng: Random) -> str:
        """``text`` in disguise."""
        raise NotImplementedError(f"{type(self).__name__} has no apply()")


class ZeroWidth(Transform):
    name = "zero_width"

    def apply(self, text: str, rng: Random) -> str:
        return "\u200b".join(text)


class Fullwidth(Transform):
    name = "fullwidth"

    def apply(self, text: str, rng: Random) -> str:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


class Homoglyph(Transform):
    name = "homoglyph"
    _letters = str.maketrans("aceopxyi", "асеорхуі")

    def apply(self, text: str, rng: Random) -> str:
        return text.translate(self._letters)


class Base64(Transform):
    name = "base64"

    def apply(self, text: str, rng: Random) -> str:
        return base64.b64encode(text.encode()).decode()


class Hex(Transform):
    name = "hex"

    def apply(self, text: str, rng: Random) -> str:
        return text.encode().hex()


class Leet(Transform):
    name = "leet"
    _digits = str.maketrans("aeiost", "431057")

    def apply(self, text: str, rng: Random) -> str:
        return text.lower().translate(self._digits)


class Spaced(Transform):
    name = "spaced"

    def apply(self, text: str, rng: Random) -> str:
        return " ".join(text)


class Reversed(Transform):
    name = "reversed"

    def apply(self, text: str, rng: Random) -> str:
        return text[::-1]


class Rot13(Transform):
    name = "rot13"

    def apply(self, text: str, rng: Random) -> str:
        return codecs.encode(text, "rot13")


class _Agent:
    """Draws prompts from its families, every family as often as any other."""

    def __init__(self, known: Iterable[Family], *, seed: int, chosen: Sequence[str] | None) -> None:
        by_name = {family.name: family for family in known}
        unknown = sorted(set(chosen or ()) - set(by_name))
        if unknown:
            raise InvalidInputError.of("families", unknown, ", ".join(by_name))
        self.families = tuple(by_name[name] for name in (chosen or by_name))
        self._rng = Random(seed)  # noqa: S311 - reproducible, not secret

    def _draw(self, count: int) -> Iterator[TrainingRow]:
        for number in range(count):
            family = self.families[number % len(self.families)]
            yield TrainingRow(
                family.prompt(self._rng), family.label, family.name, family.attack_type, "agent"
            )


class EvilAgent(_Agent):
    """The attacker.

    Args:
        seed: the same seed writes the same prompts.
        families: names of the families to draw from; all where not given.
        known: the families there are; the blind ones where not given.
        disguised: share of the prompts that go through a transform, in [0, 1].
        paraphraser: rewords every prompt before it is disguised.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        families: Sequence[str] | None = None,
        known: Iterable[Family] | None = None,
        disguised: float = 0.2,
        paraphraser: Paraphraser | None = None,
    ) -> None:
        if not 0.0 <= disguised <= 1.0:
            raise InvalidInputError.of("disguised", disguised, "0 to 1")
        super().__init__(known or families_of("blind_attacks"), seed=seed, chosen=families)
        self._disguised = disguised
        self._paraphraser = paraphraser

    def prompts(self, count: int) -> Iterator[TrainingRow]:
        """``count`` attacks."""
        for row in self._draw(count):
            text = row.text
            if self._paraphraser is not None:
                text = self._paraphraser.paraphrase(text)
            if self._rng.random() < self._disguised:
                disguise = self._rng.choice(list(Transform.known.values()))
                text = disguise.apply(text, self._rng)
            yield TrainingRow(text, row.label, row.family, row.attack_type, row.source)


class LegitimateAgent(_Agent):
    """The honest user; arguments as those of :class:`EvilAgent`."""

    def __init__(
        self,
        *,
        seed: int = 0,
        families: Sequence[str] | None = None,
        known: Iterable[Family] | None = None,
    ) -> None:
        super().__init__(known or families_of("blind_benign"), seed=seed, chosen=families)

    def prompts(self, count: int) -> Iterator[TrainingRow]:
        """``count`` benign prompts."""
        return self._draw(count)
