"""Rows for the tables that metrics are counted from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Database


@pytest.fixture
def event(database: Database) -> Callable[..., None]:
    """Adds one row to ``vecsec_events``."""

    def add(kind: str = "analysis", **columns: Any) -> None:
        names = ", ".join(["kind", *columns])
        marks = ", ".join(["%s"] * (len(columns) + 1))
        with database.admin() as connection:
            connection.execute(
                f"INSERT INTO secmon.vecsec_events ({names}) VALUES ({marks})",
                [kind, *columns.values()],
            )

    return add
