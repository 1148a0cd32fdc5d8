"""``HashChainAuditLogger``, the audit chain as an object: what writes to it and keeps it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from secmon_dagster.audit.appender import Appender
from secmon_dagster.audit.backends.opening import open_store
from secmon_dagster.audit.backends.postgres import PostgresStore
from secmon_dagster.audit.canonical import canonical_json
from secmon_dagster.audit.entry import INCARNATION, Draft, Level, Receipt, by_caller, new_entry_id
from secmon_dagster.audit.inspection import ChainInspection
from secmon_dagster.audit.keys import KeyRing, ring_file
from secmon_dagster.audit.retention import Archive, Archived
from secmon_dagster.audit.signer import CheckpointSigner, Publication
from secmon_dagster.errors import (
    EntryRefusedError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.settings import get_settings

log = logging.getLogger("secmon_dagster.audit")

_CONSOLE = {
    Level.INFO: logging.INFO,
    Level.WARN: logging.WARNING,
    Level.ERROR: logging.ERROR,
    Level.CRITICAL: logging.CRITICAL,
}


class HashChainAuditLogger(ChainInspection):
    """A tamper-evident, append-only log.

    Safe for threads, coroutines and forks. An append returns when the entry is durable.

    Args:
        database_url: ``postgresql://…``, ``sqlite:///FILE`` or ``mysql://…``; None means
            ``AUDIT_DB_URL``, and without that the project's own database.
        pool_pre_ping: test a pooled connection before each use.
        pool_size, max_overflow: connections for reads.
        synchronous_commit: PostgreSQL's setting for appends; anything below ``on`` gives up the
            promise that an acknowledged entry survives a crash.

    Raises:
        InvalidInputError: no such kind of URL.
        DatabaseUnavailableError: nothing answers.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        pool_pre_ping: bool = False,
        pool_size: int = 10,
        max_overflow: int = 0,
        synchronous_commit: str = "on",
    ) -> None:
        settings = get_settings()
        if database_url is None and settings.audit_db_url is not None:
            database_url = settings.audit_db_url.get_secret_value()
        store = open_store(
            database_url,
            pool_size=pool_size + max_overflow,
            check=pool_pre_ping,
            synchronous_commit=synchronous_commit,
        )
        super().__init__(store)
        self._max_payload_bytes = settings.audit_max_payload_bytes
        self._appender = Appender(store.append)
        log.info("Audit logger initialized on %s", store.name)

    def __enter__(self) -> HashChainAuditLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- appending --------------------------------------------------------------------------------

    def append_entry(
        self,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: Any = None,
        details: Any = None,
        *,
        level: str = "info",
        event_type: str | None = None,
        execution_id: str | None = None,
        job_id: str | None = None,
        entry_id: str | None = None,
    ) -> str:
        """Append one entry.

        Args:
            action: what was done.
            actor: who did it.
            resource_type, resource_id: to what.
            data: the content of the act, any JSON (see ``canonical``).
            details: its context, any JSON.
            level: ``info``, ``warn``, ``error`` or ``critical``.
            event_type: one of :class:`EventType` for lifecycle events, else a name or None.
            execution_id, job_id: the run and step it belongs to.
            entry_id: the caller's idempotency key: appending the same entry again changes nothing.

        Returns:
            The entry's id. The entry is durable.

        Raises:
            EntryRefusedError: a field is wrong, or the id names another entry.
            DatabaseUnavailableError: the database does not answer.
        """
        draft = self._draft(
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
        )
        return self._tell(draft, self._appender.append(draft)).entry_id

    async def append_entry_async(
        self, action: str, actor: str, resource_type: str, **rest: Any
    ) -> str:
        """:meth:`append_entry` for coroutines; many of them share one round trip."""
        draft = self._draft(action, actor, resource_type, **rest)
        receipt = await asyncio.wrap_future(self._appender.submit(draft))
        return self._tell(draft, receipt).entry_id

    def append_entries(self, entries: Iterable[Mapping[str, Any]]) -> list[str]:
        """Append many entries in order, up to 2,000 or 8 MiB a transaction; the next are checked
        meanwhile.

        Args:
            entries: each the keyword arguments of :meth:`append_entry`.

        Returns:
            Their ids.

        Raises:
            EntryRefusedError: an entry is wrong. Nothing of its transaction is appended; those
                before it stay. With an ``entry_id`` in each, appending all again is safe.
        """
        ids: list[str] = []

        def drafts() -> Iterator[Draft]:
            for place, entry in enumerate(entries):
                try:
                    draft = self._draft(**entry)
                except TypeError as wrong:
                    raise EntryRefusedError(f"entry {place} of the batch: {wrong}") from None
                ids.append(draft.entry_id)
                yield draft

        self.store.append_bulk(drafts())
        return ids

    def _draft(self, *said: Any, **named: Any) -> Draft:
        return by_caller(Draft.of(*said, **named, max_payload_bytes=self._max_payload_bytes))

    def rollback_to_hash(
        self, target_hash: str, *, actor: str | None = None, reason: str | None = None
    ) -> tuple[bool, int]:
        """Supersede everything after the entry with this hash.

        Nothing is removed: a marker entry commits to the superseded range, and the default views
        hide it.

        Returns:
            Whether there is such an entry, and how many entries are superseded.
        """
        try:
            target = bytes.fromhex(target_hash)
        except ValueError:
            raise InvalidInputError.of("hash", target_hash, "64 hexadecimal digits") from None
        details = canonical_json(
            {"reason": reason}, field="details", max_bytes=self._max_payload_bytes
        )
        try:
            _, removed = self.store.rollback(
                target, new_entry_id(), actor or get_settings().user or "secmon", details
            )
        except NotFoundError:
            return False, 0
        return True, removed

    def sequence(self, most: int = 1000) -> int:
        """Move up to ``most`` entries from the outbox into the chain; how many were moved."""
        return self.store.sequence(most)

    def _tell(self, draft: Draft, receipt: Receipt) -> Receipt:
        log.debug("Appended audit entry %s: %s by %s", draft.entry_id, draft.action, draft.actor)
        if draft.event_type is not None:
            log.log(
                _CONSOLE[Level(draft.level)],
                "%s %s %s by %s",
                draft.event_type,
                draft.execution_id or "",
                draft.job_id or "",
                draft.actor,
            )
        return receipt

    # --- upkeep -----------------------------------------------------------------------------------

    def checkpoint(self) -> Publication:
        """Sign the chain as it is now and publish that.

        Raises:
            CheckpointError: the chain contradicts what was signed before.
        """
        return CheckpointSigner.from_settings(self.store, get_settings()).checkpoint()

    def archive(self, older_than: timedelta = timedelta(days=90)) -> list[Archived]:
        """Move whole partitions older than that to files that prove themselves."""
        return self._archive().archive(older_than)

    def restore(self, first_seq: int) -> Archived:
        """Bring an archived partition back."""
        return self._archive().restore(first_seq)

    def new_incarnation(self, reason: str, *, actor: str | None = None) -> Publication:
        """Go on under a new name after a legitimate restore from a backup, and say so in the log.

        What the earlier incarnation signed beyond the entries that are there is given up.
        """
        if not isinstance(self.store, PostgresStore):
            raise InvalidInputError(f"{self.store.name} has no incarnations")
        restored_to = self.store.head().seq
        incarnation = self.store.next_incarnation()
        self.store.append(
            [
                Draft.of(
                    INCARNATION,
                    actor or get_settings().user or "secmon",
                    "audit_chain",
                    data={"incarnation": incarnation, "restored_to": restored_to},
                    details={"reason": reason},
                    level="critical",
                    event_type="config.change",
                )
            ]
        )
        signer = CheckpointSigner.from_settings(self.store, get_settings())
        signer.forget()
        return signer.checkpoint()

    def _archive(self) -> Archive:
        if not isinstance(self.store, PostgresStore):
            raise InvalidInputError(f"{self.store.name} has no partitions to archive")
        settings = get_settings()
        return Archive(
            self.store,
            settings.home / "archive",
            KeyRing.load(ring_file(settings)),
            settings.user or "secmon",
        )

    def close(self) -> None:
        """Finish queued appends and give up all connections."""
        self._appender.close()
        self.store.close()
