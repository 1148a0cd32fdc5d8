"""Runs that wait for a second person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from secmon_dagster.errors import ConflictError, InvalidInputError, NotFoundError
from secmon_dagster.errors import PermissionDeniedError as Denied
from secmon_dagster.posture.records import require_text
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import Row, fetch, fetch_one


@dataclass(frozen=True, slots=True)
class RunApproval:
    """A run under a layer that asks for approval.

    Attributes:
        state: ``pending``, ``approved`` or ``denied``.
    """

    run_id: str
    instance_id: str
    job_name: str
    requested_by: str
    requested_at: datetime
    state: str
    decided_by: str | None
    decided_at: datetime | None
    reason: str | None


def request_approval(
    session: Session, run_id: str, instance_id: str, job_name: str, requested_by: str
) -> None:
    """Note that a run waits; noting it again changes nothing."""
    with session.begin() as connection:
        new = fetch_one(
            connection,
            "INSERT INTO run_approvals (run_id, instance_id, job_name, requested_by) "
            "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING run_id",
            run_id,
            instance_id,
            job_name,
            requested_by,
        )
        if new is not None:
            session.record(
                connection,
                "request_run_approval",
                "run",
                resource_id=run_id,
                details={"instance_id": instance_id, "requested_by": requested_by},
                execution_id=run_id,
            )


def list_approvals(
    session: Session, *, state: str = "pending", limit: int = 100
) -> list[RunApproval]:
    """Runs in ``state``, oldest request first.

    Raises:
        InvalidInputError: there is no such state.
    """
    if state not in ("pending", "approved", "denied"):
        raise InvalidInputError.of("state", state, "pending, approved, denied")
    with session.begin() as connection:
        rows = fetch(
            connection,
            "SELECT * FROM run_approvals WHERE state = %s ORDER BY requested_at, run_id LIMIT %s",
            state,
            limit,
        )
    return [_approval_of(row) for row in rows]


def decide(
    session: Session, run_id: str, *, approve: bool, reason: str | None = None
) -> RunApproval:
    """Let a waiting run go, or end it.

    Raises:
        NotFoundError: no run waits under this id.
        PermissionDeniedError: the one who asked for it can't decide it.
        ConflictError: it was decided otherwise before.
    """
    if reason is not None:
        require_text("reason", reason, 2000)
    state = "approved" if approve else "denied"
    with session.begin() as connection:
        row = fetch_one(
            connection, "SELECT * FROM run_approvals WHERE run_id = %s FOR UPDATE", run_id
        )
        if row is None:
            raise NotFoundError(f"No run {run_id!r} waits for approval")
        if row["requested_by"] == session.actor:
            raise Denied("A second person must decide: this run is your own request")
        if row["state"] == state:
            return _approval_of(row)
        if row["state"] != "pending":
            raise ConflictError(f"Run {run_id!r} was {row['state']} by {row['decided_by']} before")
        decided = fetch_one(
            connection,
            "UPDATE run_approvals SET state = %s, decided_by = %s, "
            "decided_at = clock_timestamp(), reason = %s WHERE run_id = %s RETURNING *",
            state,
            session.actor,
            reason,
            run_id,
        )
        assert decided is not None
        session.record(
            connection,
            f"run_{state}",
            "run",
            resource_id=run_id,
            details={"instance_id": row["instance_id"], "reason": reason},
            execution_id=run_id,
        )
    return _approval_of(decided)


def undelivered_decisions(session: Session) -> list[RunApproval]:
    """Decisions that have not reached Dagster's queue yet."""
    with session.begin() as connection:
        rows = fetch(
            connection,
            "SELECT * FROM run_approvals WHERE state <> 'pending' AND applied_at IS NULL "
            "ORDER BY decided_at",
        )
    return [_approval_of(row) for row in rows]


def mark_delivered(session: Session, run_id: str) -> None:
    """The decision reached the run."""
    with session.begin() as connection:
        connection.execute(
            "UPDATE run_approvals SET applied_at = clock_timestamp() WHERE run_id = %s", (run_id,)
        )


def _approval_of(row: Row) -> RunApproval:
    return RunApproval(**{name: value for name, value in row.items() if name != "applied_at"})
