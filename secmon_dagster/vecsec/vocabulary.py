"""The words a detector has met: tells readable text from gibberish, and cuts glued letters.

Reversed or rot13 text is worth reading only where it holds more known words than the text as it
stands; ``i g n o r e a l l`` can be cut back into words only by someone who knows words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"[^\W\d_]+")
_LONGEST = 18


class Vocabulary:
    """Known words with their frequencies.

    Args:
        counts: word to number of occurrences; words are lower-case.
    """

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self._known = frozenset(word for word in counts if len(word) > 1)
        total = sum(counts.values()) or 1
        self._cost = {word: math.log(total / count) for word, count in counts.items()}
        self._unknown = math.log(total) + 1.0

    @classmethod
    def learn(cls, texts: Iterable[str], *, size: int = 8000) -> Vocabulary:
        """The ``size`` most frequent words of canonical ``texts`` that occur at least twice."""
        counter: Counter[str] = Counter()
        for text in texts:
            counter.update(word for word in _WORD.findall(text) if len(word) <= _LONGEST)
        return cls({word: n for word, n in counter.most_common(size) if n > 1})

    def readable(self, text: str) -> float:
        """Share of the words of ``text`` that are known, weighted by length, in [0, 1]."""
        words = _WORD.findall(text)
        total = len("".join(words))
        known = len("".join(filter(self._known.__contains__, words)))
        return known / total if total else 0.0

    def segment(self, letters: str) -> str:
        """Cut glued ``letters`` into the likeliest known words (Viterbi over word costs).

        Unknown letters cost more than any known word, so they stay together only where nothing
        else fits.
        """
        best = [0.0]
        cut = [0]
        for end in range(1, len(letters) + 1):
            cost, start = best[end - 1] + self._unknown, end - 1
            for begin in range(max(0, end - _LONGEST), end):
                known = self._cost.get(letters[begin:end])
                if known is not None and best[begin] + known < cost:
                    cost, start = best[begin] + known, begin
            best.append(cost)
            cut.append(start)
        words: list[str] = []
        end = len(letters)
        while end:
            words.append(letters[cut[end] : end])
            end = cut[end]
        return " ".join(reversed(words))
