"""Approvals: a second person's word on exact bytes under an exact policy.

pending ▸ approved | denied | expired | revoked; approved ▸ expired | revoked. The database enforces
the machine, the two-person rule and the binding (``sql/0004_gate.sql``); this module only asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from secmon_dagster.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)

DEFAULT_LIFETIME = timedelta(days=7)
MAX_LIFETIME = timedelta(days=365)


class State(StrEnum):
    """The states of an approval."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Approval:
    """A row of ``approvals``; ``version`` grows with each change."""

    id: str
    artifact_id: str
    sha256: str
    policy_digest: str
    requester: str
    state: State
    reason: str
    requested_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    version: int
    idempotency_key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The approval as JSON members."""
        shown = {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in asdict(self).items()
        }
        del shown["idempotency_key"]
        return shown


def request(
    connection: psycopg.Connection[Any],
    *,
    artifact_id: str,
    sha256: str,
    policy_digest: str,
    requester: str,
    reason: str = "",
    lifetime: timedelta = DEFAULT_LIFETIME,
    idempotency_key: str | None = None,
) -> Approval:
    """Ask for an approval; who asks again for the same gets the request that is open.

    Raises:
        InvalidInputError: no requester, or a lifetime outside (0, 365 days].
    """
    if not requester:
        raise InvalidInputError.of("requester", requester, "the name of who asks")
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise InvalidInputError.of("lifetime", str(lifetime), "more than 0, at most 365 days")
    expire(connection)
    connection.execute(
        """
        INSERT INTO approvals
          (artifact_id, sha256, policy_digest, requester, reason, expires_at, idempotency_key)
        VALUES (%s, %s, %s, %s, %s, clock_timestamp() + %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (artifact_id, sha256, policy_digest, requester, reason, lifetime, idempotency_key),
    )
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT * FROM approvals
             WHERE idempotency_key = %s
                OR (artifact_id = %s AND sha256 = %s AND policy_digest = %s AND requester = %s
                    AND state IN ('pending', 'approved'))
             ORDER BY requested_at DESC LIMIT 1
            """,
            (idempotency_key, artifact_id, sha256, policy_digest, requester),
        )
        .fetchone()
    )
    assert row is not None
    found = _approval(row)
    if (found.artifact_id, found.requester) != (artifact_id, requester):
        raise ConflictError("this idempotency key belongs to another request for approval")
    return found


def decide(
    connection: psycopg.Connection[Any],
    approval_id: str,
    state: State,
    *,
    decided_by: str,
    expected_version: int | None = None,
) -> Approval:
    """Approve, deny or revoke.

    Args:
        expected_version: the version the decider has seen; another one is a conflict.

    Raises:
        NotFoundError: no such approval.
        PermissionDeniedError: the requester or the uploader approves his own.
        ConflictError: the approval is in another state or version, or has expired.
    """
    expire(connection)
    current = find(connection, approval_id)
    if expected_version is not None and expected_version != current.version:
        raise ConflictError(
            f"approval {approval_id} is at version {current.version}, not {expected_version}",
            version=current.version,
        )
    try:
        with connection.transaction():
            row = (
                connection.cursor(row_factory=dict_row)
                .execute(
                    "UPDATE approvals SET state = %s, decided_by = %s "
                    "WHERE id = %s AND version = %s RETURNING *",
                    (state, decided_by, approval_id, current.version),
                )
                .fetchone()
            )
    except psycopg.errors.CheckViolation as refused:
        if refused.diag.constraint_name == "approver_is_not_requester":
            raise PermissionDeniedError(
                f"{decided_by!r} can't decide on this approval: it needs a person other than the "
                "requester and the uploader"
            ) from None
        raise ConflictError(str(refused.diag.message_primary)) from None
    if row is None:
        raise ConflictError(f"approval {approval_id} was changed by somebody else meanwhile")
    return _approval(row)


def find(connection: psycopg.Connection[Any], approval_id: str) -> Approval:
    """One approval.

    Raises:
        NotFoundError: there is none.
    """
    row = (
        connection.cursor(row_factory=dict_row)
        .execute("SELECT * FROM approvals WHERE id = %s", (approval_id,))
        .fetchone()
    )
    if row is None:
        raise NotFoundError(f"no approval has id {approval_id!r}")
    return _approval(row)


def approved(
    connection: psycopg.Connection[Any], artifact_id: str, sha256: str | None, policy_digest: str
) -> Approval | None:
    """The approval in force for these bytes under this policy."""
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT * FROM approvals
             WHERE artifact_id = %s AND sha256 = %s AND policy_digest = %s
               AND state = 'approved' AND expires_at > clock_timestamp()
             ORDER BY decided_at DESC LIMIT 1
            """,
            (artifact_id, sha256, policy_digest),
        )
        .fetchone()
    )
    return None if row is None else _approval(row)


def listed(connection: psycopg.Connection[Any], *, artifact_id: str | None = None,
           state: State | None = None, limit: int = 100) -> list[Approval]:  # fmt: skip
    """Approvals, the newest first."""
    rows = connection.cursor(row_factory=dict_row).execute(
        """
        SELECT * FROM approvals
         WHERE (%(artifact)s::text IS NULL OR artifact_id = %(artifact)s)
           AND (%(state)s::text IS NULL OR state = %(state)s)
         ORDER BY requested_at DESC LIMIT %(limit)s
        """,
        {"artifact": artifact_id, "state": state, "limit": limit},
    )
    return [_approval(row) for row in rows]


def expire(connection: psycopg.Connection[Any]) -> int:
    """Mark what has run out; returns how many."""
    return connection.execute(
        "UPDATE approvals SET state = 'expired', decided_by = COALESCE(decided_by, 'clock') "
        "WHERE state IN ('pending', 'approved') AND expires_at <= clock_timestamp()"
    ).rowcount


def _approval(row: Mapping[str, Any]) -> Approval:
    return Approval(**{**row, "state": State(row["state"])})
