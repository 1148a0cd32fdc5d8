"""The audit chain: trail, verification, proofs, checkpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import Limit
from secmon_dagster.api.work import Audits, Reads
from secmon_dagster.audit import get_audit_logger
from secmon_dagster.errors import NotFoundError
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import fetch, fetch_one

router = APIRouter(prefix="/api/audit", tags=["audit"])

_TEXT = r"^[^\x00]{1,200}$"
Text = Annotated[str | None, Query(pattern=_TEXT)]
EntryId = Annotated[str, Path(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
_COLUMNS = (
    "SELECT seq, entry_id, timestamp, level, event_type, action, actor, resource_type, "
    "resource_id, execution_id, job_id, data::jsonb AS data, details::jsonb AS details, "
    "encode(previous_hash, 'hex') AS previous_hash, encode(entry_hash, 'hex') AS entry_hash "
    "FROM audit_entries "
)


def _trail(session: Session, limit: int, before: int | None, **filters: str | None) -> Any:
    with session.begin() as connection:
        return fetch(
            connection,
            _COLUMNS + "WHERE seq < %s AND (%s::text IS NULL OR actor = %s) "
            "AND (%s::text IS NULL OR resource_type = %s) "
            "AND (%s::text IS NULL OR resource_id = %s) "
            "AND (%s::text IS NULL OR execution_id = %s) "
            "AND (%s::text IS NULL OR resource_id = %s) ORDER BY seq DESC LIMIT %s",
            2**63 - 1 if before is None else before,
            *(value for wanted in filters.values() for value in (wanted, wanted)),
            limit,
        )


def _visible(session: Session, entry_id: str, instance_id: str | None) -> Any:
    with session.begin() as connection:
        entry = fetch_one(connection, _COLUMNS + "WHERE entry_id = %s", entry_id)
    if entry is None or instance_id not in (None, entry["resource_id"]):
        raise NotFoundError(f"There is no audit entry {entry_id!r}")
    return entry


@router.get("/entries")
def get_trail(
    call: Reads,
    actor: Text = None,
    resource_type: Text = None,
    resource_id: Text = None,
    execution_id: Text = None,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
) -> Response:
    """Entries, newest first: the caller's own and those of their runs; all for approvers.

    The key of one agent sees those about that agent.
    """
    return call.read(
        lambda session: _trail(
            session,
            limit,
            before,
            actor=actor,
            resource_type=resource_type,
            resource_id=resource_id,
            execution_id=execution_id,
            instance_id=call.who.instance_id,
        ),
        after=lambda entry: int(entry["seq"]),
        cursor="before",
        limit=limit,
    )


@router.get("/entries/{entry_id}")
def get_entry(call: Reads, entry_id: EntryId) -> Response:
    """One entry."""
    return call.read(lambda session: _visible(session, entry_id, call.who.instance_id))


@router.get("/entries/{entry_id}/proof", responses=documented(500))
def get_proof(call: Reads, entry_id: EntryId) -> Response:
    """A proof, checkable offline, that the entry is under the latest checkpoint."""

    def prove(session: Session) -> Any:
        _visible(session, entry_id, call.who.instance_id)
        with session.begin() as connection:
            covered = fetch_one(
                connection,
                "SELECT FROM audit_entries e WHERE entry_id = %s AND e.seq <= "
                "(SELECT size FROM audit_checkpoints ORDER BY created_at DESC, size DESC LIMIT 1)",
                entry_id,
            )
        if covered is None:
            raise NotFoundError(
                f"No checkpoint covers entry {entry_id!r} yet",
                hint="One is made every few seconds; ask again then.",
            )
        return get_audit_logger().prove(entry_id)

    return call.read(prove)


@router.get("/checkpoint")
def get_checkpoint(call: Reads) -> Response:
    """The latest signed checkpoint, to keep or to compare with a witness's."""

    def latest(session: Session) -> Any:
        with session.begin() as connection:
            row = fetch_one(
                connection,
                "SELECT origin, size, encode(root, 'hex') AS root, note, created_at "
                # Not the largest: after a restore that may be one over entries that were lost.
                "FROM audit_checkpoints ORDER BY created_at DESC, size DESC LIMIT 1",
            )
        if row is None:
            raise NotFoundError("There is no checkpoint yet")
        return row

    return call.read(latest)


@router.get("/verify", responses=documented(500))
def verify(
    call: Audits,
    first_seq: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    last_seq: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Response:
    """Verify the chain, or a part of it, against the checkpoints. Reads every entry asked for."""
    return call.read(
        lambda _: get_audit_logger().verification(first_seq=first_seq, last_seq=last_seq).to_dict()
    )
