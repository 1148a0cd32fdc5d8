"""Named patterns of attacks: what a person would point at. The model learns how far to trust each.

The patterns are data (``data/rules.yaml``). Alone they find a quarter of new attacks with hardly a
false alarm (measured: .258 at < .001); in the model they are features, and in a verdict they are
the reasons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml


class AttackType(StrEnum):
    """What an attack is after. ``NONE`` for what is allowed."""

    NONE = "none"
    PROMPT_INJECTION = "prompt_injection"
    INDIRECT_INJECTION = "indirect_injection"
    JAILBREAK = "jailbreak"
    EXFILTRATION = "exfiltration"
    SYSTEM_PROMPT_EXTRACTION = "system_prompt_extraction"
    OBFUSCATION = "obfuscation"


@dataclass(frozen=True)
class Rule:
    """One pattern.

    Attributes:
        name: as shown among a verdict's reasons.
        attack_type: what a match points to.
        pattern: over the canonical view.
        foreign: an alternative that only a text with non-ASCII characters can match.
        hints: the pattern can only match where one of these stands; most prompts have none, and
            looking for a word is twenty times faster than for a pattern.
        position: its place among the model's dense features.
    """

    name: str
    attack_type: AttackType
    pattern: re.Pattern[str]
    foreign: re.Pattern[str] | None
    hints: tuple[str, ...]
    position: int

    def matches(self, view: str, *, ascii_only: bool) -> bool:
        """Whether a canonical view holds the pattern."""
        hinted = not self.hints or any(map(view.__contains__, self.hints))
        if hinted and self.pattern.search(view):
            return True
        return bool(not ascii_only and self.foreign and self.foreign.search(view))


def _load(file: Path) -> tuple[Rule, ...]:
    parsed: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    fragments: dict[str, str] = parsed["fragments"]

    def compiled(alternatives: list[str]) -> re.Pattern[str]:
        pattern = "|".join(alternatives)
        for name, fragment in fragments.items():
            pattern = pattern.replace(f"{{{name}}}", fragment)
        return re.compile(pattern)

    return tuple(
        Rule(
            name=raw["name"],
            attack_type=AttackType(raw["attack_type"]),
            pattern=compiled(raw["any"]),
            foreign=compiled(raw["foreign"]) if "foreign" in raw else None,
            hints=tuple(raw.get("hints", ())),
            position=position,
        )
        for position, raw in enumerate(parsed["rules"])
    )


RULES: tuple[Rule, ...] = _load(Path(__file__).parent / "data" / "rules.yaml")


def matching(view: str) -> tuple[Rule, ...]:
    """The rules that match a canonical view."""
    ascii_only = view.isascii()
    return tuple(rule for rule in RULES if rule.matches(view, ascii_only=ascii_only))
