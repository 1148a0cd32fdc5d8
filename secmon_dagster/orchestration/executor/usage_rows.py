"""Rows of ``step_usage``: what each attempt of a step used, for metrics and suggestions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import Role, transaction
from secmon_dagster.errors import SecmonError
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.violation import ResourceUsage

_INSERT = """
    INSERT INTO step_usage (
      run_id, step_key, attempt, job_name, op_name, enforcement, limits, outcome, violation,
      wall_seconds, cpu_seconds, throttled_seconds, peak_memory_bytes, read_bytes, written_bytes,
      user_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (run_id, step_key, attempt) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row. Times in seconds, sizes in bytes."""

    run_id: str
    step_key: str
    attempt: int
    job_name: str
    op_name: str
    enforcement: str
    limits: ResourceLimits
    outcome: str
    violation: str | None
    usage: ResourceUsage
    user_id: str | None


class UsageSink(Protocol):
    """Where rows go."""

    def __call__(self, rows: Sequence[UsageRow]) -> None: ...


def insert_rows(rows: Sequence[UsageRow]) -> None:
    """Insert rows into the project's database.

    Raises:
        DatabaseError: it doesn't answer or has no such table.
        psycopg.Error: it refused them.
    """
    with transaction(Role.SERVICE) as connection, connection.cursor() as cursor:
        cursor.executemany(_INSERT, [_values(row) for row in rows])


class UsageRows:
    """Rows of one run, written a few at a time. Figures are no evidence: a run goes on without."""

    def __init__(self, sink: UsageSink | None, warn: Callable[[str], None]) -> None:
        self._sink = sink
        self._warn = warn
        self._waiting: list[UsageRow] = []

    def add(self, row: UsageRow) -> None:
        if self._sink is not None:
            self._waiting.append(row)

    def flush(self) -> None:
        """Write what waits; where that fails, say so once and write no more."""
        if self._sink is None or not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        try:
            self._sink(rows)
        except (SecmonError, psycopg.Error) as refused:
            self._sink = None
            self._warn(f"Usage of this run's steps is not recorded: {refused}")


def _values(row: UsageRow) -> tuple[object, ...]:
    usage = row.usage
    return (
        *(row.run_id, row.step_key, row.attempt, row.job_name, row.op_name),
        *(row.enforcement, Jsonb(row.limits.to_json()), row.outcome, row.violation),
        *(usage.wall_seconds, usage.cpu_seconds, usage.throttled_seconds),
        *(usage.peak_memory_bytes, usage.read_bytes, usage.written_bytes, row.user_id),
    )
