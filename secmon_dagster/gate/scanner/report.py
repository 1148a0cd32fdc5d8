"""What a scan found: findings with a level, and the report that collects them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MAX_FINDINGS = 40
MAX_TEXT = 160


class Level(StrEnum):
    """How bad a finding is; the verdict of a file is its worst finding."""

    WARN = "warn"
    BLOCK = "block"


@dataclass(frozen=True)
class Finding:
    """One reason for a verdict.

    ``rule`` is the stable name of the rule, ``where`` the place in the file (member names joined
    with ``!``, then the byte offset), ``name`` the import an operator may approve.
    """

    level: Level
    rule: str
    message: str
    where: str = ""
    name: str = ""

    def to_dict(self) -> dict[str, str]:
        """The finding as JSON members, empty ones left out."""
        return {key: str(value) for key, value in asdict(self).items() if value}


@dataclass
class Report:
    """Findings of one file; equal ones are kept once, and no more than :data:`MAX_FINDINGS`."""

    findings: list[Finding] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    left_out: int = 0

    def add(self, level: Level, rule: str, message: str, where: str = "", name: str = "") -> None:
        """Record a finding once per level, rule and name (or place, where there is no name)."""
        message, where, name = printable(message), printable(where), printable(name)
        key = (level, rule, name or message)
        if any(
            (known.level, known.rule, known.name or known.message) == key for known in self.findings
        ):
            return
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(level, rule, message, where, name))
            return
        self.left_out += 1
        if level is Level.BLOCK and self.worst is not Level.BLOCK:
            self.findings[-1] = Finding(level, rule, message, where, name)

    def block(self, rule: str, message: str, where: str = "", name: str = "") -> None:
        """Record a finding that blocks."""
        self.add(Level.BLOCK, rule, message, where, name)

    def warn(self, rule: str, message: str, where: str = "", name: str = "") -> None:
        """Record a finding that warns."""
        self.add(Level.WARN, rule, message, where, name)

    def saw_format(self, name: str) -> None:
        """Remember a format that was recognised, in order of appearance."""
        if name not in self.formats:
            self.formats.append(name)

    @property
    def worst(self) -> Level | None:
        """The level of the worst finding, None where there is none."""
        if any(found.level is Level.BLOCK for found in self.findings):
            return Level.BLOCK
        return Level.WARN if self.findings else None

    @property
    def recommendation(self) -> str:
        """``allow``, ``warn`` or ``block``."""
        return self.worst.value if self.worst else "allow"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON members."""
        return {
            "formats": self.formats,
            "findings": [found.to_dict() for found in self.findings],
            "findings_left_out": self.left_out,
            "recommendation": self.recommendation,
        }


def printable(text: str) -> str:
    """Text from a hostile file, safe to print on one line: escaped and cut."""
    shown = (
        text
        if text.isprintable() and text.isascii()
        else text.encode("unicode_escape", "backslashreplace").decode("ascii")
    )
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 3] + "..."
