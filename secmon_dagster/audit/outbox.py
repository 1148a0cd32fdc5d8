"""Entries that belong to a business transaction.

The chain's lock inside a business transaction would cost most of its throughput (measured: seven
eighths). So the entry goes into the outbox in that transaction, and a sequencer appends it right
after: the act and its entry are committed together or not at all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from secmon_dagster.audit.entry import DRAFT_FIELDS, Draft, by_caller
from secmon_dagster.errors import SecmonError
from secmon_dagster.settings import get_settings

log = logging.getLogger(__name__)

# Rendered once: composing the statement anew would cost more than sending it.
_INSERT = (
    sql.SQL("INSERT INTO secmon.audit_outbox ({}) VALUES ({})")
    .format(
        sql.SQL(", ").join(map(sql.Identifier, DRAFT_FIELDS)),
        sql.SQL(", ").join([sql.Placeholder()] * len(DRAFT_FIELDS)),
    )
    .as_bytes()
)


def enqueue(
    conn: psycopg.Connection[Any],
    *,
    action: str,
    actor: str,
    resource_type: str,
    resource_id: str | None = None,
    data: Any = None,
    details: Any = None,
    level: str = "info",
    event_type: str | None = None,
    execution_id: str | None = None,
    job_id: str | None = None,
    entry_id: str | None = None,
) -> str:
    """Put an entry into the outbox, in the transaction that is open on ``conn``.

    Returns:
        The entry's id; the entry is in the chain once a sequencer has run.

    Raises:
        EntryRefusedError: a field is wrong. Checked here, so that the sequencer can't be stopped.
    """
    draft = by_caller(
        Draft.of(
            action,
            actor,
            resource_type,
            resource_id,
            data,
            details,
            level=level,
            event_type=event_type,
            execution_id=execution_id,
            job_id=job_id,
            entry_id=entry_id,
            max_payload_bytes=get_settings().audit_max_payload_bytes,
        )
    )
    conn.execute(_INSERT, draft)
    return draft.entry_id


class Sequencer:
    """Empties the outbox in the background until stopped; any number may run at once.

    Args:
        sequence: moves up to so many rows, and says how many it moved.
        interval: seconds between looks at an empty outbox.
    """

    BATCH = 1000

    def __init__(self, sequence: Callable[[int], int], interval: float = 0.2) -> None:
        self._sequence = sequence
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-sequencer", daemon=True)

    def start(self) -> Sequencer:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the batch under way."""
        self._stop.set()
        self._thread.join()

    def drain(self) -> int:
        """Empty the outbox now; how many entries were moved."""
        moved = 0
        while step := self._sequence(self.BATCH):
            moved += step
        return moved

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.drain()
            except SecmonError as failed:
                # The rows stay where they are; the age of the oldest is a metric.
                log.warning("the outbox could not be emptied: %s", failed)
            self._stop.wait(self._interval)
