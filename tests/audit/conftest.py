"""A chain with a signer and a witness of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.audit.verification import Verification

ENTRY = {"action": "A", "actor": "a", "resource_type": "t"}


@dataclass(frozen=True)
class Chain:
    """A logger, and a superuser's connection to the database behind it."""

    log: HashChainAuditLogger
    admin: psycopg.Connection[Any]
    home: Path

    def fill(self, count: int, **fields: Any) -> list[str]:
        return self.log.append_entries([ENTRY | fields for _ in range(count)])

    def unguard(self) -> None:
        """What a superuser does first."""
        self.admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")

    def verify(self, **options: Any) -> Verification:
        return self.log.verification(workers=1, **options)


@pytest.fixture
def chain(database, home) -> Iterator[Chain]:
    with HashChainAuditLogger() as log, database.admin() as admin:
        yield Chain(log, admin, home)


@pytest.fixture
def log(chain) -> HashChainAuditLogger:
    return chain.log
