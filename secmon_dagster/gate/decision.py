"""Whether a verdict lets an artifact's bytes pass, and the exception where it doesn't."""

from __future__ import annotations

from typing import Any

import psycopg

from secmon_dagster.errors import (
    ApprovalRequiredError,
    ArtifactBlockedError,
    CheckTimeoutError,
    GateError,
    GateMisconfiguredError,
)
from secmon_dagster.gate import approval, history
from secmon_dagster.gate.artifact import Artifact
from secmon_dagster.gate.isolation import strength
from secmon_dagster.gate.verdict import MonitoringResult, Outcome, Verdict
from secmon_dagster.settings import get_settings


def require(
    connection: psycopg.Connection[Any],
    artifact: Artifact,
    verdict: Verdict | None,
) -> None:
    """Raise unless ``verdict`` lets the artifact's bytes pass: see ``open_released``."""
    context: dict[str, Any] = {"artifact_id": artifact.id, "verdict": verdict}
    if verdict is None:
        raise ArtifactBlockedError(
            f"artifact {artifact.id!r} has no verdict on these bytes under the policy in force",
            hint=f"secmon gate rescan {artifact.id}",
            **context,
        )
    if not verdict.allowed:
        raise refusal(verdict)
    if not history.is_recorded(connection, verdict):
        raise ArtifactBlockedError(
            f"the verdict {verdict.check_id} on artifact {artifact.id!r} is not in the audit "
            "chain as the history tells it",
            hint=f"secmon audit verify, then secmon gate rescan {artifact.id}",
            **context,
        )
    demanded = get_settings().gate_min_isolation
    if strength(verdict.result.isolation) < strength(demanded):
        raise ArtifactBlockedError(
            f"artifact {artifact.id!r} was checked under {verdict.result.isolation}; "
            f"SECMON_GATE_MIN_ISOLATION demands {demanded}",
            **context,
        )
    if artifact.require_approval and not approval.approved(
        connection, artifact.id, verdict.sha256, verdict.policy_digest
    ):
        raise ApprovalRequiredError(
            f"artifact {artifact.id!r} needs the approval of a second person",
            hint=f"secmon gate request {artifact.id}",
            **context,
        )


def refusal(verdict: Verdict) -> GateError:
    """The exception for a verdict that doesn't let pass."""
    name = verdict.result.artifact_id
    context: dict[str, Any] = {"artifact_id": name, "verdict": verdict}
    if verdict.outcome is Outcome.TIMEOUT:
        return CheckTimeoutError(f"the check of artifact {name!r} did not end in time", **context)
    if verdict.outcome in (Outcome.NO_INTERPRETER, Outcome.SCRIPT_ERROR):
        return GateMisconfiguredError(
            f"the check of artifact {name!r} could not be made (exit code "
            f"{verdict.result.exit_code}, {verdict.result.script_name})",
            **context,
        )
    reasons = "; ".join(str(f.get("message", f.get("rule", "?"))) for f in verdict.findings[:3])
    message = f"artifact {name!r} is blocked: {reasons or 'by its check'}"
    return ArtifactBlockedError(message, **context)


def blocked(artifact: Artifact, rule: str, message: str) -> MonitoringResult:
    """The gate's own word, without a script's."""
    return MonitoringResult(
        artifact_id=artifact.id,
        script_name="gate",
        exit_code=2,
        findings=({"level": "block", "rule": rule, "message": message},),
        recommendation="block",
    )
