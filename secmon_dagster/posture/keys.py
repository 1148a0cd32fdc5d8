"""API keys: made once, shown once, kept as a digest.

A key reads ``secmon_<12 hex>_<43 characters>``: a public id and 256 random bits. A digest without
salt or stretching is enough for a secret nobody chose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.posture.records import MAX_NAME, require_text
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import Row, fetch, fetch_one, require_instance

_KEY = re.compile(r"secmon_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
LONGEST_LIFE = timedelta(days=3650)


class ApiRole(StrEnum):
    """What the bearer of a key may do.

    ``viewer`` reads own rows; ``operator`` also writes them; ``approver`` reads everyone's rows and
    decides approvals, but operates nothing; ``admin`` may do everything.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed: never its secret half."""

    key_id: str
    name: str
    user_id: str
    role: ApiRole
    instance_id: str | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.expires_at > datetime.now(UTC) else "expired"


def split_key(key: str) -> tuple[str, bytes] | None:
    """The public id and the digest of the secret half; None when ``key`` has not the form."""
    match = _KEY.fullmatch(key)
    return None if match is None else (match[1], _digest(match[2]))


def create_key(
    session: Session,
    *,
    user_id: str,
    role: str,
    name: str = "",
    lifetime: timedelta = timedelta(days=90),
    instance_id: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key.

    Args:
        user_id: whose rows its bearer sees.
        instance_id: binds the key to one agent; a key that acts for another is refused.

    Returns:
        The key as it is listed, and its text, which is kept nowhere.

    Raises:
        InvalidInputError: an unknown role, or a lifetime outside 1 s to ten years.
        NotFoundError: no such instance.
    """
    require_text("user_id", user_id, MAX_NAME)
    if role not in set(ApiRole):
        raise InvalidInputError.of("role", role, ", ".join(ApiRole))
    if instance_id is not None and role not in (ApiRole.VIEWER, ApiRole.OPERATOR):
        # These see every row and decide: an agent would approve its own runs.
        raise InvalidInputError.of("role", role, "viewer or operator for a key of one instance")
    if not timedelta(seconds=1) <= lifetime <= LONGEST_LIFE:
        raise InvalidInputError.of("lifetime", str(lifetime), "1 second to 3650 days")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with session.begin() as connection:
        if instance_id is not None:
            require_instance(connection, instance_id)
        row = fetch_one(
            connection,
            "INSERT INTO api_keys (key_id, name, user_id, role, secret_hash, instance_id, "
            "expires_at) VALUES (%s, %s, %s, %s, %s, %s, now() + %s) RETURNING *",
            key_id,
            name or f"{role} of {user_id}"[:MAX_NAME],
            user_id,
            role,
            _digest(secret),
            instance_id,
            lifetime,
        )
        assert row is not None
        key = _key_of(row)
        session.record(
            connection,
            "create_api_key",
            "api_key",
            resource_id=key_id,
            details={
                "user_id": user_id,
                "role": role,
                "instance_id": instance_id,
                "expires_at": key.expires_at.isoformat(),
            },
            event_type="config.change",
        )
    return key, f"secmon_{key_id}_{secret}"


def list_keys(session: Session) -> list[ApiKey]:
    """All keys, newest first, without their secrets."""
    with session.begin() as connection:
        rows = fetch(connection, "SELECT * FROM api_keys ORDER BY created_at DESC")
    return [_key_of(row) for row in rows]


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """End a key now; ending it again changes nothing.

    Raises:
        NotFoundError: no such key.
    """
    with session.begin() as connection:
        row = fetch_one(
            connection,
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) "
            "WHERE key_id = %s RETURNING *",
            key_id,
        )
        if row is None:
            raise NotFoundError(f"There is no API key {key_id!r}")
        session.record(
            connection,
            "revoke_api_key",
            "api_key",
            resource_id=key_id,
            details={"user_id": row["user_id"]},
            event_type="config.change",
        )
    return _key_of(row)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key_of(row: Row) -> ApiKey:
    public = {name: value for name, value in row.items() if name != "secret_hash"}
    return ApiKey(**{**public, "role": ApiRole(row["role"])})
