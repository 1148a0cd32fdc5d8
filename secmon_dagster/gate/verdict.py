"""What a check said: actions, results of single scripts, and the verdict on an artifact.

All of it is pure: the decision for an exit code is a table, tested as one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from secmon_dagster.gate.isolation import strength

EXIT_TIMEOUT = 124
EXIT_NO_INTERPRETER = 127
EXIT_SCRIPT_ERROR = 255


class Action(StrEnum):
    """What follows from a check, as ``monitoring_history.action_taken`` says it."""

    ALLOWED = "allowed"
    WARNED = "warned"
    BLOCKED = "blocked"
    ERROR = "error"


class Outcome(StrEnum):
    """Why, finer than the action: each has one answer in HTTP and one exception."""

    ALLOW = "allow"
    WARN = "warn"
    BLOCK = "block"
    TIMEOUT = "timeout"
    NO_INTERPRETER = "no-interpreter"
    SCRIPT_ERROR = "script-error"


_ACTIONS = {
    Outcome.ALLOW: Action.ALLOWED,
    Outcome.WARN: Action.WARNED,
    Outcome.BLOCK: Action.BLOCKED,
    Outcome.TIMEOUT: Action.BLOCKED,
    Outcome.NO_INTERPRETER: Action.ERROR,
    Outcome.SCRIPT_ERROR: Action.ERROR,
}
# From best to worst. A clear block outranks a check that could not be made.
_ORDER = (
    Outcome.ALLOW,
    Outcome.WARN,
    Outcome.TIMEOUT,
    Outcome.NO_INTERPRETER,
    Outcome.SCRIPT_ERROR,
    Outcome.BLOCK,
)


def outcome_of(exit_code: int) -> Outcome:
    """The outcome of an exit code. 124, 127, 255 and signals are judged before "2 and above"."""
    if exit_code == EXIT_TIMEOUT:
        return Outcome.TIMEOUT
    if exit_code == EXIT_NO_INTERPRETER:
        return Outcome.NO_INTERPRETER
    if exit_code == EXIT_SCRIPT_ERROR or exit_code < 0 or exit_code > EXIT_SCRIPT_ERROR:
        return Outcome.SCRIPT_ERROR
    return (Outcome.ALLOW, Outcome.WARN)[exit_code] if exit_code < 2 else Outcome.BLOCK


@dataclass(frozen=True)
class MonitoringResult:
    """What one script said about one artifact.

    ``exit_code`` is one of the table's: a signal, unreadable output or a contradiction between exit
    code and recommendation is already 255 here. ``stdout`` and ``stderr`` are cut to the output
    limit. ``isolation`` is the sandbox the script ran in.
    """

    artifact_id: str
    script_name: str
    exit_code: int
    stdout: str = ""
    stderr: str = ""
    execution_duration_ms: float = 0.0
    findings: tuple[Mapping[str, Any], ...] = ()
    recommendation: str | None = None
    isolation: str = "none"
    script_digest: str = ""
    executed_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def outcome(self) -> Outcome:
        """The outcome of the exit code."""
        return outcome_of(self.exit_code)

    @property
    def action(self) -> Action:
        """What follows from it."""
        return _ACTIONS[self.outcome]

    @property
    def action_taken(self) -> Action:
        """The action under the name of its column."""
        return self.action

    @property
    def allowed(self) -> bool:
        """Whether the artifact may pass."""
        return self.outcome in (Outcome.ALLOW, Outcome.WARN)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON members."""
        return {
            "artifact_id": self.artifact_id,
            "script_name": self.script_name,
            "exit_code": self.exit_code,
            "action": str(self.action),
            "recommendation": self.recommendation,
            "findings": [dict(found) for found in self.findings],
            "stdout": self.stdout,
            "stderr": self.stderr,
            "execution_duration_ms": self.execution_duration_ms,
            "executed_at": self.executed_at.isoformat(),
            "isolation": self.isolation,
            "script_digest": self.script_digest,
        }


def worst(results: Iterable[MonitoringResult]) -> MonitoringResult:
    """The result that decides: the worst outcome, the first of equals.

    Raises:
        ValueError: there are no results; nothing checked is not allowed.
    """
    return max(results, key=lambda result: _ORDER.index(result.outcome))


def read_output(exit_code: int, stdout: str) -> tuple[int, dict[str, Any], str | None]:
    """Exit code, JSON object and complaint of what a script printed.

    Exit codes that let pass need output that says the same: anything else is a script error. A
    script that blocks, or that ended as 124, 127 or 255, is believed without.
    """
    outcome = outcome_of(exit_code)
    if exit_code < 0:
        return EXIT_SCRIPT_ERROR, {}, f"the script was ended by signal {-exit_code}"
    try:
        printed = json.loads(stdout)
    except (ValueError, RecursionError):
        printed = None
    if not isinstance(printed, dict) or not isinstance(printed.get("findings", []), list):
        if outcome in (Outcome.ALLOW, Outcome.WARN):
            return EXIT_SCRIPT_ERROR, {}, "the script printed no JSON object"
        return exit_code, {}, None
    said = printed.get("recommendation")
    expected = {Outcome.ALLOW: "allow", Outcome.WARN: "warn", Outcome.BLOCK: "block"}.get(outcome)
    if expected is not None and said is not None and said != expected:
        complaint = f"the script recommends {said!r} and exits with {exit_code}"
        return EXIT_SCRIPT_ERROR, printed, complaint
    return exit_code, printed, None


def combine(results: Sequence[MonitoringResult]) -> MonitoringResult:
    """Several scripts' results as one: the worst decides, all findings are kept.

    Raises:
        ValueError: there are no results; nothing checked is not allowed.
    """
    decisive = worst(results)
    if len(results) == 1:
        return decisive
    return replace(
        decisive,
        script_name="+".join(result.script_name for result in results),
        findings=tuple(
            {**found, "script": result.script_name}
            for result in results
            for found in result.findings
        ),
        recommendation=decisive.recommendation,
        execution_duration_ms=round(sum(r.execution_duration_ms for r in results), 3),
        isolation=min((r.isolation for r in results), key=strength),
        script_digest=hashlib.sha256(
            "".join(result.script_digest for result in results).encode()
        ).hexdigest(),
    )


@dataclass(frozen=True)
class Verdict:
    """What the gate says about exact bytes under an exact policy.

    ``check_id`` is the row of ``monitoring_history``; ``cached_from`` the check that ran the
    scripts where this one reused it; ``entry_id`` the audit entry with the same content.
    """

    check_id: str
    result: MonitoringResult
    sha256: str | None
    policy_digest: str
    cached_from: str | None = None
    entry_id: str | None = None

    @property
    def outcome(self) -> Outcome:
        """Why, finer than the action."""
        return self.result.outcome

    @property
    def action(self) -> Action:
        """What follows."""
        return self.result.action

    @property
    def allowed(self) -> bool:
        """Whether the artifact may pass."""
        return self.result.allowed

    @property
    def findings(self) -> tuple[Mapping[str, Any], ...]:
        """The reasons."""
        return self.result.findings

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON members; what the scripts printed stays in the history."""
        shown = self.result.to_dict()
        del shown["stdout"], shown["stderr"]
        return {
            "check_id": self.check_id,
            **shown,
            "outcome": str(self.outcome),
            "sha256": self.sha256,
            "policy_digest": self.policy_digest,
            "cached_from": self.cached_from,
            "entry_id": self.entry_id,
        }
