"""Looking through prompts and outputs for what should not be in them.

Pure functions over text. A finding says where and what kind, never the text itself, so that it may
be stored and shown; :func:`redact` takes secrets out before anything is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from secmon_dagster.posture.score import Severity


class FindingKind(StrEnum):
    """What was found."""

    CONTROL_CHARACTER = "control_character"
    INJECTION = "injection"
    SECRET = "secret"  # noqa: S105 - the name of a kind
    MARKUP = "markup"
    TERMINAL_SEQUENCE = "terminal_sequence"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place in a text.

    Attributes:
        kind: what sort of thing.
        name: which pattern noticed it.
        where: ``prompt``, ``output`` or ``details``.
        start: offset of its first character.
        end: offset behind its last.
        severity: how much it matters.
    """

    kind: FindingKind
    name: str
    where: str
    start: int
    end: int
    severity: Severity

    def as_dict(self) -> dict[str, Any]:
        """For a JSON column."""
        return asdict(self)


class PromptDetector(Protocol):
    """A detector of attacks that is passed in, such as the one of ``vecsec``."""

    def is_attack(self, prompt: str) -> bool:
        """Whether ``prompt`` tries to subvert the model."""
        ...


def _union(patterns: Mapping[str, str], flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{name}>{text})" for name, text in patterns.items()), flags)


_CREDENTIAL_WORDS = r"(?i:\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token)\b)"
# Every quantifier is bounded, so a long text costs time in proportion to its length.
_SECRETS = _union(
    {
        "private_key": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:[^-]{0,8000}-----END "
        r"[A-Z ]{0,20}PRIVATE KEY-----)?",
        "aws_access_key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "github_token": r"\bgh[pousr]_[A-Za-z0-9]{36,251}",
        "slack_token": r"\bxox[abprs]-[A-Za-z0-9-]{10,250}",
        "secmon_key": r"\bsecmon_[0-9a-f]{12}_[A-Za-z0-9_-]{43}",
        "provider_key": r"\bsk-[A-Za-z0-9_-]{20,200}",
        "json_web_token": r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\."
        r"[A-Za-z0-9_-]{10,1000}",
        "url_credentials": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:[^\s/@]{1,200}@",
        "assignment": _CREDENTIAL_WORDS + r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"']{8,200}",
    }
)
_INJECTIONS = _union(
    {
        "override": r"\b(?:ignore|disregard|forget|override)\b[\w\s,']{0,40}\b(?:previous|prior|"
        r"above|earlier|all|your|system)\b[\w\s,']{0,30}\b(?:instructions?|prompts?|rules?|"
        r"guidelines?)\b",
        "role_play": r"\byou are (?:now|no longer)\b|\b(?:enable|enter|activate) (?:developer|dan|"
        r"god|jailbreak) mode\b|\bdo anything now\b",
        "prompt_leak": r"\b(?:reveal|print|show|repeat|output|leak)\b[\w\s,']{0,30}\b(?:system "
        r"prompt|hidden (?:prompt|instructions?)|initial instructions?)\b",
        "chat_markup": r"<\|(?:im_start|im_end|system|endoftext)\|>|\[/?INST\]|"
        r"</?(?:system|assistant)>",
        "sql": r"['\"]\s{0,5}(?:or|and)\s{1,5}['\"]?\d{1,5}['\"]?\s{0,5}=\s{0,5}['\"]?\d|"
        r";\s{0,5}(?:drop|truncate|alter)\s{1,5}table\b|\bunion\s{1,5}(?:all\s{1,5})?select\b",
        "shell": r"\$\([^)]{1,200}\)|[;&|]\s{0,5}(?:rm\s{1,3}-rf|curl|wget|nc|bash)\b",
        "template": r"\$\{jndi:|\{\{[^}]{0,100}(?:__|config|self)[^}]{0,100}\}\}",
    },
    re.IGNORECASE,
)
# Tab, newline and carriage return are text. Bidirectional overrides and tag characters hide words
# from a human reader.
_CONTROLS = _union(
    {
        "c0_c1": "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]",
        "bidirectional": "[\u202a-\u202e\u2066-\u2069]",
        "invisible": "[\u200b\u2060\ufeff\U000e0000-\U000e007f]",
    }
)
_MARKUP = _union(
    {
        "active_element": r"<\s{0,3}/?\s{0,3}(?:script|iframe|object|embed|svg|math|base|form|meta|"
        r"link)\b",
        "event_handler": r"<[a-z][^<>]{0,300}?[\s/\"']on[a-z]{3,20}\s{0,3}=",
        "script_url": r"\b(?:href|src|action|formaction)\s{0,3}=\s{0,3}[\"']?\s{0,3}(?:javascript|"
        r"vbscript|data:text/html)",
    },
    re.IGNORECASE,
)
_TERMINAL = _union({"escape": "\x1b[\\[\\]P^_]|\x9b|\x9d"})


def scan_prompt(prompt: str, detector: PromptDetector | None = None) -> list[Finding]:
    """Control characters, injection patterns and secrets in what a model is asked."""
    found = [
        *_find(prompt, "prompt", _CONTROLS, FindingKind.CONTROL_CHARACTER, Severity.MEDIUM),
        *_find(prompt, "prompt", _INJECTIONS, FindingKind.INJECTION, Severity.HIGH),
        *_find(prompt, "prompt", _SECRETS, FindingKind.SECRET, Severity.HIGH),
    ]
    if detector is not None and detector.is_attack(prompt):
        found.append(
            Finding(FindingKind.INJECTION, "detector", "prompt", 0, len(prompt), Severity.HIGH)
        )
    return found


def scan_output(output: str) -> list[Finding]:
    """Unescaped markup, control sequences and leaked secrets in what a model answered."""
    return [
        *_find(output, "output", _MARKUP, FindingKind.MARKUP, Severity.HIGH),
        *_find(output, "output", _TERMINAL, FindingKind.TERMINAL_SEQUENCE, Severity.MEDIUM),
        *_find(output, "output", _CONTROLS, FindingKind.CONTROL_CHARACTER, Severity.MEDIUM),
        *_find(output, "output", _SECRETS, FindingKind.SECRET, Severity.CRITICAL),
    ]


# More places than this say nothing new and would only fill the table.
_MOST_FINDINGS = 20


def _find(
    text: str, where: str, pattern: re.Pattern[str], kind: FindingKind, severity: Severity
) -> Iterator[Finding]:
    for count, match in enumerate(pattern.finditer(text)):
        if count == _MOST_FINDINGS:
            return
        yield Finding(kind, str(match.lastgroup), where, match.start(), match.end(), severity)


_NAMES_A_SECRET = re.compile(_CREDENTIAL_WORDS)
_SHORTEST_SECRET = 8


def redact(text: str) -> str:
    """``text`` with each secret replaced by its kind.

    >>> redact("use AKIAABCDEFGHIJKLMNOP please")
    'use [redacted: aws_access_key] please'
    """
    return _SECRETS.sub(lambda match: f"[redacted: {match.lastgroup}]", text)


def redact_json(value: Any) -> Any:
    """``value`` with secrets taken out of every string in it, keys too."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redact_member(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(item) for item in value]
    return value


def _redact_member(key: str, item: Any) -> Any:
    # What "password: …" is in a text.
    if isinstance(item, str) and len(item) >= _SHORTEST_SECRET and _NAMES_A_SECRET.search(key):
        return "[redacted: assignment]"
    return redact_json(item)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The highest severity among ``findings``; None when there are none."""
    order = list(Severity)
    return max((f.severity for f in findings), key=order.index, default=None)
