"""Checking instances: evidence in, results and scores stored, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secmon_dagster.posture.alerts import alert_falls
from secmon_dagster.posture.checks import run_all
from secmon_dagster.posture.evidence import gather
from secmon_dagster.posture.records import SecurityCheck
from secmon_dagster.posture.scanning import PromptDetector
from secmon_dagster.posture.score import CheckStatus, score
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import insert_checks, set_scores

# A violation of an instance that is being checked waits for its whole batch, some 50 ms.
CHECKED_AT_ONCE = 50


def check_instances(
    session: Session,
    connection: Connection,
    instance_ids: Sequence[str],
    detector: PromptDetector | None,
) -> dict[str, list[SecurityCheck]]:
    """Run all six checks of each instance, store them, renew the scores, and leave an audit entry.

    Args:
        instance_ids: those the session may see.

    Returns:
        The stored results by instance, without those that aren't there (any more).
    """
    with session.everyones_rows(connection):
        evidence = gather(connection, instance_ids, detector)
    results = {found.instance.instance_id: run_all(found) for found in evidence}
    stored = insert_checks(connection, results)
    # All six are new and the profiles are locked, so these are the latest of each type.
    scores = {instance_id: score_of(checks) for instance_id, checks in stored.items()}
    points = set_scores(connection, scores, "checks")
    alert_falls(session, connection, points)
    with connection.pipeline():  # the entries need no answer each
        for instance_id, checks in stored.items():
            failed = any(check.status is CheckStatus.FAILED for check in checks)
            session.record(
                connection,
                "run_security_checks",
                "agent_instance",
                resource_id=instance_id,
                details={
                    "score": points[instance_id].score if instance_id in points else None,
                    "statuses": {check.check_type: check.status for check in checks},
                },
                level="warn" if failed else "info",
            )
    return stored


def score_of(checks: Iterable[SecurityCheck]) -> float:
    """The score these results make."""
    return score({check.check_type: check.status for check in checks})
