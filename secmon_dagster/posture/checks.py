"""The six checks: from evidence to a result, without I/O.

Each answers ``passed`` only on evidence; without any it answers ``monitoring``. Violations of the
last day count against the check they belong to, so a score that fell stays down until they age.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from secmon_dagster.posture.evidence import Act, Evidence
from secmon_dagster.posture.scanning import FindingKind
from secmon_dagster.posture.score import CheckResult, CheckStatus, CheckType, Severity
from secmon_dagster.posture.violations import status_of

_MOST_NAMED = 20
# So near to its limit an instance is one burst away from being refused.
_NEARLY = 0.9


def check_authentication(evidence: Evidence) -> CheckResult:
    """Recent calls carried credentials that were valid, unexpired and not shared."""
    # Its own, and those refused: that its owner could attach a layer says nothing of the instance.
    calls = [
        act
        for act in evidence.acts
        if act.auth_method == "api_key" and (act.source == "instance" or act.auth_error is not None)
    ]
    invalid = [act.activity_id for act in calls if _was_invalid(act, evidence)]
    shared = sorted(
        use.key_id
        for use in evidence.keys.values()
        if use.other_instances
        or (use.bound_to is not None and use.bound_to != evidence.instance.instance_id)
    )
    details = _looked_at(calls) | {"method": "api_key", "verified": bool(calls) and not invalid}
    if invalid:
        return CheckResult(
            CheckType.AUTHENTICATION,
            CheckStatus.FAILED,
            Severity.CRITICAL,
            f"{len(invalid)} of {len(calls)} recent calls carried an expired, revoked or unknown "
            "key",
            details | {"activity_ids": invalid[:_MOST_NAMED]},
        )
    if shared:
        return CheckResult(
            CheckType.AUTHENTICATION,
            CheckStatus.WARNING,
            Severity.HIGH,
            f"{len(shared)} of its keys also act for other instances",
            details | {"shared_keys": shared[:_MOST_NAMED]},
        )
    if not calls:
        return _no_evidence(CheckType.AUTHENTICATION, "no call with a credential in the last day")
    return CheckResult(
        CheckType.AUTHENTICATION,
        CheckStatus.PASSED,
        Severity.MEDIUM,
        "Instance authentication verified",
        details,
    )


def check_authorization(evidence: Evidence) -> CheckResult:
    """It acted within its declared scopes and on its owner's rows."""
    acts = [act for act in evidence.acts if act.source == "instance" and not act.throttled]
    scopes = evidence.instance.scopes
    outside = [
        act.activity_id
        for act in acts
        if scopes is not None and act.action not in scopes and not act.denied
    ]
    foreign = [act.activity_id for act in acts if act.workflow_id in evidence.foreign_workflows]
    denied = [act.activity_id for act in evidence.acts if act.denied and act.auth_error is None]
    details = _looked_at(acts) | {"scopes": scopes}
    if outside or foreign:
        return CheckResult(
            CheckType.AUTHORIZATION,
            CheckStatus.FAILED,
            Severity.CRITICAL,
            f"{len(outside)} acts outside its scopes, {len(foreign)} on rows of another owner",
            details | {"activity_ids": (outside + foreign)[:_MOST_NAMED]},
        )
    if denied:
        return CheckResult(
            CheckType.AUTHORIZATION,
            CheckStatus.WARNING,
            Severity.HIGH,
            f"{len(denied)} acts were refused",
            details | {"activity_ids": denied[:_MOST_NAMED]},
        )
    if not acts:
        return _no_evidence(CheckType.AUTHORIZATION, "no act in the last day")
    if scopes is None:
        return _no_evidence(
            CheckType.AUTHORIZATION, "no scopes are declared to hold its acts against", details
        )
    return CheckResult(
        CheckType.AUTHORIZATION,
        CheckStatus.PASSED,
        Severity.MEDIUM,
        f"{len(acts)} acts, all within the declared scopes and on own rows",
        details,
    )


def check_data_validation(evidence: Evidence) -> CheckResult:
    """Activity and workflow inputs satisfied their declared JSON Schemas."""
    checked = [act for act in evidence.acts if act.schema_checked]
    broken = [act.activity_id for act in checked if act.schema_error is not None]
    details = _looked_at(checked) | {"workflow_inputs": evidence.valid_inputs}
    if broken:
        share = len(broken) / len(checked)
        # A slip now and then is a warning; more than a tenth is a caller that doesn't validate.
        failed = share > 0.1
        return CheckResult(
            CheckType.DATA_VALIDATION,
            CheckStatus.FAILED if failed else CheckStatus.WARNING,
            Severity.HIGH if failed else Severity.MEDIUM,
            f"{len(broken)} of {len(checked)} acts break their declared schema",
            details | {"activity_ids": broken[:_MOST_NAMED]},
        )
    if not checked and not evidence.valid_inputs:
        return _no_evidence(
            CheckType.DATA_VALIDATION, "nothing was held against a declared schema in the last day"
        )
    return CheckResult(
        CheckType.DATA_VALIDATION,
        CheckStatus.PASSED,
        Severity.LOW,
        f"{len(checked) + evidence.valid_inputs} inputs satisfied their schemas",
        details,
    )


def check_rate_limiting(evidence: Evidence) -> CheckResult:
    """The most acts in any minute stayed within the layer."""
    peak = evidence.peak
    throttled = [act.activity_id for act in evidence.acts if act.throttled]
    if evidence.layer is None:
        return _no_evidence(CheckType.RATE_LIMITING, "no layer sets a limit")
    limit = evidence.layer.config.max_requests_per_minute
    details: dict[str, Any] = {
        "table": "instance_activities",
        "acts": peak.acts,
        "peak_per_minute": peak.most,
        "limit": limit,
    }
    if peak.most > limit:
        return CheckResult(
            CheckType.RATE_LIMITING,
            CheckStatus.FAILED,
            Severity.HIGH,
            f"{peak.most} acts in a minute, {limit} are allowed",
            details,
        )
    if throttled or (peak.acts and peak.most >= _NEARLY * limit):
        return CheckResult(
            CheckType.RATE_LIMITING,
            CheckStatus.WARNING,
            Severity.MEDIUM,
            f"peak of {peak.most} a minute against {limit}; it was held back in "
            f"{len(throttled)} minutes",
            details | {"activity_ids": throttled[:_MOST_NAMED]},
        )
    if not peak.acts:
        return _no_evidence(CheckType.RATE_LIMITING, "no act in the last day", details)
    return CheckResult(
        CheckType.RATE_LIMITING,
        CheckStatus.PASSED,
        Severity.LOW,
        f"peak of {peak.most} a minute against {limit}",
        details,
    )


def check_input_sanitization(evidence: Evidence) -> CheckResult:
    """Prompts held no control characters, injection patterns or secrets."""
    prompts = [text for text in evidence.texts if text.has_prompt]
    return _scan_result(
        CheckType.INPUT_SANITIZATION,
        "prompt",
        [(text.activity_id, text.findings) for text in prompts],
    )


def check_output_encoding(evidence: Evidence) -> CheckResult:
    """Outputs held no unescaped markup, control sequences or leaked secrets."""
    outputs = [text for text in evidence.texts if text.has_output]
    return _scan_result(
        CheckType.OUTPUT_ENCODING,
        "output",
        [(text.activity_id, text.findings) for text in outputs],
    )


CHECKS: dict[CheckType, Callable[[Evidence], CheckResult]] = {
    CheckType.AUTHENTICATION: check_authentication,
    CheckType.AUTHORIZATION: check_authorization,
    CheckType.DATA_VALIDATION: check_data_validation,
    CheckType.RATE_LIMITING: check_rate_limiting,
    CheckType.INPUT_SANITIZATION: check_input_sanitization,
    CheckType.OUTPUT_ENCODING: check_output_encoding,
}


def run_all(evidence: Evidence) -> list[CheckResult]:
    """All six, with the violations of the last day counted in."""
    return [_with_violations(check(evidence), evidence) for check in CHECKS.values()]


def _with_violations(result: CheckResult, evidence: Evidence) -> CheckResult:
    violations = [v for v in evidence.violations if v.check_type is result.check_type]
    if not violations:
        return result
    worst = max(violations, key=lambda violation: list(Severity).index(violation.severity))
    details = result.details | {
        "violation_ids": [violation.violation_id for violation in violations[:_MOST_NAMED]],
        "violations": len(violations),
    }
    order = list(CheckStatus)
    if order.index(status_of(worst.severity)) <= order.index(result.status):
        return CheckResult(
            result.check_type, result.status, result.severity, result.description, details
        )
    return CheckResult(
        result.check_type,
        status_of(worst.severity),
        worst.severity,
        f"{len(violations)} violations in the last day, the worst: {worst.description}",
        details,
    )


def _scan_result(
    check_type: CheckType, where: str, scanned: list[tuple[int, list[dict[str, Any]]]]
) -> CheckResult:
    found = [
        (activity_id, finding)
        for activity_id, findings in scanned
        for finding in findings
        if finding["where"] == where
    ]
    ids = [activity_id for activity_id, _ in scanned]
    details: dict[str, Any] = {"table": "instance_activities", "scanned": len(scanned)}
    if ids:
        details |= {"first_activity_id": min(ids), "last_activity_id": max(ids)}
    if not scanned:
        return _no_evidence(check_type, f"no {where} in the last day", details)
    if not found:
        return CheckResult(
            check_type,
            CheckStatus.PASSED,
            Severity.MEDIUM,
            f"{len(scanned)} {where}s scanned, nothing found",
            details,
        )
    kinds = sorted({str(finding["kind"]) for _, finding in found})
    serious = any(finding["severity"] in ("high", "critical") for _, finding in found)
    leaked = check_type is CheckType.OUTPUT_ENCODING and FindingKind.SECRET in kinds
    details |= {
        "activity_ids": list(dict.fromkeys(activity_id for activity_id, _ in found))[:_MOST_NAMED],
        "kinds": kinds,
    }
    return CheckResult(
        check_type,
        CheckStatus.FAILED if serious else CheckStatus.WARNING,
        Severity.CRITICAL if leaked else Severity.HIGH if serious else Severity.MEDIUM,
        f"{', '.join(kinds)} in {len({activity_id for activity_id, _ in found})} of "
        f"{len(scanned)} {where}s",
        details,
    )


def _was_invalid(act: Act, evidence: Evidence) -> bool:
    if act.auth_error is not None:
        return True
    use = evidence.keys.get(act.key_id or "")
    return use is None or not use.known or (use.ended_at is not None and act.at > use.ended_at)


def _looked_at(acts: Iterable[Act]) -> dict[str, Any]:
    ids = [act.activity_id for act in acts]
    rows: dict[str, Any] = {"table": "instance_activities", "acts": len(ids)}
    if ids:
        rows |= {"first_activity_id": min(ids), "last_activity_id": max(ids)}
    return rows


def _no_evidence(
    check_type: CheckType, why: str, details: dict[str, Any] | None = None
) -> CheckResult:
    return CheckResult(
        check_type,
        CheckStatus.MONITORING,
        Severity.LOW,
        f"No evidence yet: {why}",
        details or {"table": "instance_activities", "acts": 0},
    )
