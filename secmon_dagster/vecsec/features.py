"""A prompt as numbers: hashed character and word n-grams, rules, and the shape of the text.

The n-gram hash is a polynomial over code points, computed for all positions at once with numpy: a
tenth of the time of scikit-learn's ``HashingVectorizer`` (see ``benchmarks/vecsec``). Nothing is
stored per feature, so the model can meet new words after training.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secmon_dagster.vecsec.rules import RULES, Rule, matching
from secmon_dagster.vecsec.views import View

HASH_BITS = 18
DIMENSIONS = 1 << HASH_BITS
CHARACTER_GRAMS = (2, 3, 4, 5)

_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - HASH_BITS)
_WORD = re.compile(r"\w+|[^\w\s]+")

SHAPE = (
    "length", "lines", "capitals", "digits", "symbols", "foreign", "questions", "exclamations",
    "quotes", "urls", "code", "invisible", "lookalikes", "bidi", "controls", "brackets", "colons",
)  # fmt: skip
DENSE = len(RULES) + len(SHAPE)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """One view's features.

    Attributes:
        indices: hashed n-gram positions in ``[0, DIMENSIONS)``, ascending, unique.
        values: their weights; each of the two blocks (characters, words) has length one.
        dense: rules (0 or 1) and shape numbers in [0, 1], shape ``(DENSE,)``.
        rules: the rules that matched.
    """

    indices: npt.NDArray[np.int32]
    values: Floats
    dense: Floats
    rules: tuple[Rule, ...]


def _block(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], Floats]:
    """Hashes to sorted unique indices and their sublinear counts, scaled to length one."""
    positions = ((hashes * _MIX) >> _SHIFT).astype(np.int32)
    indices, counts = np.unique(positions, return_counts=True)
    values = (1.0 + np.log(counts)).astype(np.float32)
    norm = float(np.sqrt(values @ values))
    return indices, values / np.float32(norm or 1.0)


def character_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Hashes of all character n-grams of ``" text "``, one array."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    hashes = codes
    found = []
    for size in range(2, CHARACTER_GRAMS[-1] + 1):
        if len(hashes) < 2:
            break
        hashes = hashes[:-1] * _PRIME + codes[size - 1 :]
        if size in CHARACTER_GRAMS:
            found.append(hashes + np.uint64(size))
    return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)


@lru_cache(maxsize=65_536)
def _word_hash(word: str) -> int:
    """Not Python's own hash, which differs from process to process."""
    return zlib.crc32(word.encode())


def word_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Hashes of all words, neighbouring pairs, and pairs one word apart."""
    words = np.array(list(map(_word_hash, _WORD.findall(text))), dtype=np.uint64)
    return np.concatenate(
        [
            words + np.uint64(1 << 40),
            words[:-1] * _PRIME + words[1:],
            words[:-2] * _PRIME + words[2:] + np.uint64(1 << 41),
        ]
    )


def shape_of(view: View) -> list[float]:
    """The numbers named in ``SHAPE``, each in [0, 1]."""
    text, disguise = view.cleaned, view.disguise
    size = len(text) or 1
    letters = sum(map(str.isalpha, text)) or 1

    def share(count: int, of: int = size, full: float = 1.0) -> float:
        return min(1.0, count / of / full)

    foreign = 0 if view.text.isascii() else sum(ord(character) > 0x24F for character in view.text)
    return [
        min(1.0, float(np.log1p(len(text))) / 10.0),
        min(1.0, text.count("\n") / 40.0),
        share(sum(map(str.isupper, text)), letters),
        share(sum(map(str.isdigit, text))),
        share(sum(map(text.count, "#*<>{}[]|\\/_=~^$@%&")), full=0.3),
        share(foreign),
        min(1.0, text.count("?") / 5.0),
        min(1.0, text.count("!") / 5.0),
        share(text.count('"') + text.count("“") + text.count("'"), full=0.05),
        min(1.0, text.count("://") / 2.0),
        min(1.0, (text.count("```") + text.count("();") + text.count("def ")) / 4.0),
        min(1.0, disguise.invisible / 4.0),
        min(1.0, disguise.lookalikes / 4.0),
        min(1.0, disguise.bidi / 2.0),
        min(1.0, disguise.controls / 4.0),
        share(text.count("[") + text.count("{") + text.count("<"), full=0.02),
        share(text.count(":"), full=0.02),
    ]


def features_of(view: View) -> Features:
    """The features of one view."""
    char_indices, char_values = _block(character_hashes(view.text))
    word_indices, word_values = _block(word_hashes(view.text))
    matched = matching(view.text)
    dense = np.zeros(DENSE, dtype=np.float32)
    for rule in matched:
        dense[rule.position] = 1.0
    dense[len(RULES) :] = shape_of(view)
    return Features(
        indices=np.concatenate([char_indices, word_indices]),
        values=np.concatenate([char_values, word_values]),
        dense=dense,
        rules=matched,
    )
