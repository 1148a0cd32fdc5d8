"""``monitoring_history``: one row a check, and its audit entry in the same transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from secmon_dagster import audit
from secmon_dagster.database import transaction
from secmon_dagster.gate.verdict import Action, MonitoringResult, Outcome, Verdict


class Enqueue(Protocol):
    """Puts an audit entry on a connection's transaction; returns the entry's id."""

    def __call__(
        self,
        connection: psycopg.Connection[Any],
        /,
        *,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: Any = None,
        level: str = "info",
        event_type: str | None = None,
        execution_id: str | None = None,
    ) -> str: ...


@dataclass(frozen=True)
class Sensitivity:
    """How the gate treats an artifact."""

    is_sensitive: bool
    monitoring_script: str | None
    require_approval: bool


_LEVELS = {
    Action.ALLOWED: "info",
    Action.WARNED: "warn",
    Action.BLOCKED: "error",
    Action.ERROR: "critical",
}


def save_monitoring_result(
    result: MonitoringResult,
    *,
    user_id: str | None = None,
    run_id: str | None = None,
    sha256: str | None = None,
    policy_digest: str = "",
    cached_from: str | None = None,
    enqueue: Enqueue = audit.enqueue,
    connection: psycopg.Connection[Any] | None = None,
) -> Verdict:
    """Write the row and its audit entry: both, or neither.

    Args:
        enqueue: puts the entry into the audit chain's outbox.
        connection: a transaction to write in; None opens and commits one.

    Raises:
        DatabaseUnavailableError: nothing was written.
    """
    if connection is None:
        with transaction(user_id=user_id) as opened:
            return save_monitoring_result(
                result, user_id=user_id, run_id=run_id, sha256=sha256,
                policy_digest=policy_digest, cached_from=cached_from, enqueue=enqueue,
                connection=opened,
            )  # fmt: skip
    check_id = uuid.uuid4().hex
    entry_id = enqueue(
        connection,
        action=f"gate.{result.action}",
        actor=user_id or "gate",
        resource_type="artifact",
        resource_id=result.artifact_id,
        data=entry_data(result, check_id, sha256, policy_digest, cached_from),
        level=_LEVELS[result.action],
        execution_id=run_id,
    )
    connection.execute(
        """
        INSERT INTO monitoring_history
          (check_id, artifact_id, script_name, exit_code, action_taken, recommendation, findings,
           stdout, stderr, execution_duration_ms, user_id, run_id, sha256, script_digest,
           policy_digest, isolation, cached_from, entry_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            check_id, result.artifact_id, result.script_name, result.exit_code, result.action,
            result.recommendation, Jsonb([_storable(dict(f)) for f in result.findings]),
            _storable(result.stdout), _storable(result.stderr), result.execution_duration_ms,
            user_id, run_id, sha256, result.script_digest, policy_digest, result.isolation,
            cached_from, entry_id,
        ),
    )  # fmt: skip
    return Verdict(check_id, result, sha256, policy_digest, cached_from, entry_id)


def entry_data(
    result: MonitoringResult,
    check_id: str,
    sha256: str | None,
    policy_digest: str,
    cached_from: str | None = None,
) -> dict[str, Any]:
    """What the audit entry of a check says. Findings by rule and name: texts are in the history."""
    return {
        "check_id": check_id,
        "artifact_id": result.artifact_id,
        "sha256": sha256,
        "exit_code": result.exit_code,
        "action": str(result.action),
        "script_name": result.script_name,
        "script_digest": result.script_digest,
        "policy_digest": policy_digest,
        "isolation": result.isolation,
        "cached_from": cached_from,
        "findings": [
            {key: str(f[key])[:200] for key in ("level", "rule", "name") if key in f}
            for f in result.findings[:20]
        ],
    }


def check_artifact_sensitivity(artifact_id: str) -> Sensitivity | None:
    """How the gate treats the artifact; None where there is none."""
    with transaction() as connection:
        row = connection.execute(
            "SELECT is_sensitive, monitoring_script, require_approval FROM artifacts WHERE id = %s",
            (artifact_id,),
        ).fetchone()
    return None if row is None else Sensitivity(*row)


def latest_verdict(
    connection: psycopg.Connection[Any], artifact_id: str, sha256: str | None, policy_digest: str
) -> Verdict | None:
    """The newest verdict on these bytes of this artifact under this policy."""
    # Two statements: IS NOT DISTINCT FROM finds nothing by index.
    bytes_are = "sha256 IS NULL" if sha256 is None else "sha256 = %(sha256)s"
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(
            f"""
            SELECT * FROM monitoring_history
             WHERE artifact_id = %(artifact)s AND {bytes_are} AND policy_digest = %(policy)s
             ORDER BY id DESC LIMIT 1
            """,  # noqa: S608 - ours
            {"artifact": artifact_id, "sha256": sha256, "policy": policy_digest},
        )
        .fetchone()
    )
    return None if row is None else verdict_of(row)


def still_holds(connection: psycopg.Connection[Any], verdict: Verdict) -> bool:
    """Whether the newest verdict on the same bytes under the same policy says the same."""
    newest = latest_verdict(
        connection, verdict.result.artifact_id, verdict.sha256, verdict.policy_digest
    )
    return newest is not None and newest.action is verdict.action


def find_check(check_id: str) -> Verdict | None:
    """One check by its id."""
    with transaction() as connection:
        row = (
            connection.cursor(row_factory=dict_row)
            .execute("SELECT * FROM monitoring_history WHERE check_id = %s", (check_id,))
            .fetchone()
        )
    return None if row is None else verdict_of(row)


def is_recorded(connection: psycopg.Connection[Any], verdict: Verdict) -> bool:
    """Whether the audit chain (or its outbox) holds this very verdict.

    The history is a table that its role may write; the chain is not. A row without an entry that
    says the same is no verdict.
    """
    rows = connection.execute(
        "SELECT data FROM audit_entries WHERE entry_id = %s "
        "UNION ALL SELECT data FROM audit_outbox WHERE entry_id = %s",
        (verdict.entry_id, verdict.entry_id),
    ).fetchall()
    expected = entry_data(
        verdict.result, verdict.check_id, verdict.sha256, verdict.policy_digest, verdict.cached_from
    )
    return any(json.loads(text) == expected for (text,) in rows)


def history(
    *, artifact_id: str | None = None, limit: int = 20, outcome: Outcome | None = None
) -> list[Verdict]:
    """The newest checks first."""
    with transaction() as connection:
        rows = connection.cursor(row_factory=dict_row).execute(
            """
            SELECT * FROM monitoring_history
             WHERE (%(artifact)s::text IS NULL OR artifact_id = %(artifact)s)
             ORDER BY id DESC LIMIT %(limit)s
            """,
            {"artifact": artifact_id, "limit": limit},
        )
        verdicts = [verdict_of(row) for row in rows]
    return [v for v in verdicts if outcome is None or v.outcome is outcome]


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """A row of ``monitoring_history`` as a verdict."""
    result = MonitoringResult(
        artifact_id=row["artifact_id"],
        script_name=row["script_name"],
        exit_code=row["exit_code"],
        stdout=row["stdout"],
        stderr=row["stderr"],
        execution_duration_ms=row["execution_duration_ms"],
        findings=tuple(row["findings"]),
        recommendation=row["recommendation"],
        isolation=row["isolation"],
        script_digest=row["script_digest"],
        executed_at=row["executed_at"],
    )
    return Verdict(
        row["check_id"], result, row["sha256"], row["policy_digest"], row["cached_from"],
        row["entry_id"],
    )  # fmt: skip


def _storable(value: Any) -> Any:
    """PostgreSQL text and jsonb hold neither NUL nor lone surrogates; a script may print both."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_storable(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
