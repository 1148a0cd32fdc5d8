"""Keeping verdicts fresh and the history short: re-scan, and archive."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from psycopg.rows import dict_row

from secmon_dagster.database import transaction
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.gate.artifact import artifact_of
from secmon_dagster.gate.gatekeeper import Gatekeeper
from secmon_dagster.gate.history import latest_verdict
from secmon_dagster.gate.policy import load_policy
from secmon_dagster.gate.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Rescanned:
    """What became of one artifact: a verdict, or why there is none."""

    artifact_id: str
    verdict: Verdict | None
    error: str | None = None


def stale_artifacts() -> list[str]:
    """Sensitive artifacts with a file whose bytes have no verdict under the policy in force, or
    one that was an error: scanner, scripts, configuration or bytes have changed since."""
    with transaction() as connection:
        policy = load_policy(connection)
        rows = connection.cursor(row_factory=dict_row).execute(
            "SELECT * FROM artifacts WHERE path IS NOT NULL AND is_sensitive "
            "ORDER BY created_at, id"
        )
        found = []
        for artifact in [artifact_of(row) for row in rows.fetchall()]:
            verdict = latest_verdict(
                connection, artifact.id, artifact.sha256, policy.digest(artifact)
            )
            judged = (Outcome.ALLOW, Outcome.WARN, Outcome.BLOCK)
            if verdict is None or verdict.outcome not in judged:
                found.append(artifact.id)
        return found


def rescan(
    keeper: Gatekeeper,
    artifact_ids: list[str] | None = None,
    *,
    user_id: str | None = None,
    run_id: str | None = None,
) -> Iterator[Rescanned]:
    """Check anew: the artifacts named, or all that :func:`stale_artifacts` finds."""
    for artifact_id in stale_artifacts() if artifact_ids is None else artifact_ids:
        try:
            verdict = keeper.check(artifact_id, user_id=user_id, run_id=run_id, fresh=True)
        except (NotFoundError, InvalidInputError) as gone:
            if artifact_ids is not None:
                raise
            yield Rescanned(artifact_id, None, str(gone))
        else:
            yield Rescanned(artifact_id, verdict)


def archive_history(folder: Path) -> tuple[int, Path | None]:
    """Write history older than the retention to a file, and delete it from the table.

    The deletion is committed after the file is on disk: a crash in between leaves both.

    Returns:
        How many rows, and the file (JSON lines, gzip); None where nothing was due.
    """
    with transaction() as connection:
        days = load_policy(connection).retention_days
        rows = connection.cursor(row_factory=dict_row).execute(
            "DELETE FROM monitoring_history "
            "WHERE executed_at < now() - make_interval(days => %s) RETURNING *",
            (days,),
        )
        due = sorted(rows.fetchall(), key=lambda row: int(row["id"]))
        if not due:
            return 0, None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"monitoring-history-{due[0]['id']}-{due[-1]['id']}.jsonl.gz"
        unfinished = path.with_suffix(".part")
        with gzip.open(unfinished, "wb") as file:
            for row in due:
                file.write(orjson.dumps(row) + b"\n")
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(path)
    return len(due), path
