"""Findings as SARIF 2.1.0, which code hosts and editors show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secmon_dagster import __version__
from secmon_dagster.gate.verdict import MonitoringResult, Outcome

_LEVELS = {"warn": "warning", "block": "error"}


def sarif(results: Sequence[tuple[str, MonitoringResult]]) -> dict[str, Any]:
    """One run over files.

    Args:
        results: a file's path and what its check said.
    """
    found = [_result(path, finding) for path, result in results for finding in _findings(result)]
    rules = sorted({entry["ruleId"] for entry in found})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "secmon gate",
                        "version": __version__,
                        "rules": [{"id": rule} for rule in rules],
                    }
                },
                "artifacts": [{"location": {"uri": path}} for path, _ in results],
                "results": found,
            }
        ],
    }


def _findings(result: MonitoringResult) -> Sequence[Mapping[str, Any]]:
    if result.outcome in (Outcome.ALLOW, Outcome.WARN, Outcome.BLOCK):
        return result.findings
    message = result.stderr.strip().splitlines()[0] if result.stderr.strip() else "no verdict"
    return [{"level": "block", "rule": str(result.outcome), "message": message}]


def _result(path: str, finding: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ruleId": str(finding.get("rule", "finding")),
        "level": _LEVELS.get(str(finding.get("level")), "error"),
        "message": {"text": str(finding.get("message", ""))},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": path}},
                "logicalLocations": [{"fullyQualifiedName": str(finding.get("where", path))}],
            }
        ],
    }
