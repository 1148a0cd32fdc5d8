"""Rate limits in PostgreSQL, one for all workers, and the headers that tell of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from secmon_dagster.database import Role, pool


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of a minute: RateLimit header fields as of the IETF draft."""

    quota: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """``RateLimit`` and ``RateLimit-Policy``."""
        return {
            "RateLimit": f'"default";r={self.remaining};t={self.reset_seconds}',
            "RateLimit-Policy": f'"default";q={self.quota};w=60',
        }


def admit(key_id: str, digest: bytes, per_minute: int) -> dict[str, Any]:
    """Look a key up and count one hit, in one round trip; see ``secmon.api_admit``."""
    with pool(Role.SERVICE).connection() as connection:
        # One statement is its own transaction: no BEGIN and COMMIT around it.
        connection.set_autocommit(True)
        try:
            with connection.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(
                    "SELECT * FROM api_admit(%s, %s, %s)", (key_id, digest, per_minute)
                ).fetchone()
        finally:
            connection.set_autocommit(False)
    assert row is not None
    return row


def budget_of(row: Mapping[str, Any]) -> Budget:
    """The budget in an answer of :func:`admit`."""
    return Budget(row["quota"], row["remaining"], math.ceil(row["reset_seconds"]))
