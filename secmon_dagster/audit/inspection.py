"""Looking at a chain, verifying it and proving what is in it: what changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from secmon_dagster.audit import export
from secmon_dagster.audit.entry import AuditEntry, Head
from secmon_dagster.audit.keys import KeyRing, ring_file
from secmon_dagster.audit.proof import prove_inclusion
from secmon_dagster.audit.store import Query, Store
from secmon_dagster.audit.verification import Verification
from secmon_dagster.audit.verify import Trust, verify
from secmon_dagster.audit.window import Window
from secmon_dagster.audit.witness import witnesses
from secmon_dagster.errors import CheckpointError, NotFoundError
from secmon_dagster.settings import get_settings

log = logging.getLogger("secmon_dagster.audit")


class ChainInspection:
    """The reading half of :class:`HashChainAuditLogger`.

    Args:
        store: the database that holds the chain.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    # --- looking ----------------------------------------------------------------------------------

    def get_entry(self, entry_id: str) -> AuditEntry | None:
        """The entry with this id, or None."""
        return self.store.get(entry_id)

    def get_actor_trail(self, actor: str, *, limit: int | None = None) -> list[AuditEntry]:
        """All that an actor did, in order."""
        return self.find(Query(actor=actor, limit=limit))

    def get_resource_trail(
        self, resource_type: str, resource_id: str | None = None, *, limit: int | None = None
    ) -> list[AuditEntry]:
        """All that was done to a resource, in order."""
        return self.find(Query(resource_type=resource_type, resource_id=resource_id, limit=limit))

    def find(self, query: Query) -> list[AuditEntry]:
        """Entries by any of actor, resource, action, level, event, execution, job and time, paged
        by ``after_seq`` and ``limit``."""
        return self.store.find(query)

    def get_statistics(self) -> dict[str, Any]:
        """Counts: entries, actors, actions, levels, waiting in the outbox, under a checkpoint."""
        return self.store.statistics()

    def head(self) -> Head:
        """The end of the chain."""
        return self.store.head()

    def window(self) -> Window:
        """What no checkpoint covers yet: how many entries, and since how many seconds."""
        return Window.of(self.store)

    def describe_guarantees(self) -> dict[str, str]:
        """What this chain on this database prevents, detects or can't see."""
        return self.store.guarantees()

    # --- proving ----------------------------------------------------------------------------------

    def verify_chain(
        self,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """:meth:`verification` in JSON types; see :class:`Verification` for the keys."""
        return self.verification(start_time, end_time, **options).to_dict()

    def verification(
        self,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        *,
        first_seq: int | None = None,
        last_seq: int | None = None,
        since_checkpoint: bool = False,
        trust: Trust | None = None,
        workers: int | None = None,
    ) -> Verification:
        """Verify the chain, or a part of it.

        Args:
            start_time, end_time: verify the entries of this time, both ends included.
            first_seq, last_seq: verify this range.
            since_checkpoint: verify only what is newer than the last trusted checkpoint.
            trust: keys and checkpoints to believe; None means the key ring and the witnesses.
            workers: processes for long chains; None means one a core.
        """
        with self.store.snapshot() as snapshot:
            if start_time is not None:
                first_seq = snapshot.seq_at(start_time - timedelta.resolution) + 1
            if end_time is not None:
                last_seq = snapshot.seq_at(end_time)
            result = verify(
                snapshot,
                trust or self.trust(),
                first_seq=first_seq,
                last_seq=last_seq,
                since_checkpoint=since_checkpoint,
                workers=workers,
            )
        log.info(
            "Chain %s: %d entries, %d invalid, %d breaks",
            result.verdict,
            result.total_entries,
            result.invalid_count,
            result.break_count,
        )
        return result

    def trust(self) -> Trust:
        """The key ring, and all that the witnesses hold."""
        settings = get_settings()
        held: list[str] = []
        silent: list[str] = []
        for witness in witnesses(settings):
            try:
                held += witness.notes()
            except CheckpointError as unreadable:
                silent.append(unreadable.message)
        return Trust(settings.audit_origin, KeyRing.load(ring_file(settings)), held, silent)

    def prove(self, entry_id: str) -> dict[str, Any]:
        """A proof, checkable offline, that the entry is under the last checkpoint.

        Raises:
            NotFoundError: no such entry.
            CheckpointError: the last checkpoint is older than the entry.
        """
        entry, latest = self.get_entry(entry_id), self.store.latest_checkpoint()
        if entry is None:
            raise NotFoundError(f"no entry has the id {entry_id!r}")
        if latest is None:
            raise CheckpointError(
                "there is no checkpoint yet", hint="Make one with `secmon audit checkpoint`."
            )
        with self.store.snapshot() as snapshot:
            return prove_inclusion(snapshot, entry, latest.note)

    def export_chain(self, output_format: str = "json") -> str:
        """The whole chain as text.

        Args:
            output_format: ``json``, ``ndjson`` or ``csv``.
        """
        pieces: list[str] = []
        self.export_to(pieces.append, output_format)
        return "".join(pieces)

    def export_to(
        self,
        write: Callable[[str], object],
        output_format: str = "json",
        *,
        first_seq: int | None = None,
        last_seq: int | None = None,
    ) -> export.Header:
        """Export the chain or a range of it in pieces, in bounded memory.

        Raises:
            InvalidInputError: no such format or range.
        """
        with self.store.snapshot() as snapshot:
            header = export.Header.of(snapshot, first_seq, last_seq)
            for piece in export.write(snapshot, header, output_format):
                write(piece)
        return header
