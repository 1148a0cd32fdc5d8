"""The window: entries that no checkpoint covers yet; a superuser could still change them unseen."""

from __future__ import annotations

from dataclasses import dataclass

from secmon_dagster.audit.store import Query, Store


@dataclass(frozen=True, slots=True)
class Window:
    """How far the chain has run ahead of its last checkpoint.

    Attributes:
        entries: entries after the last checkpoint.
        seconds: age of the oldest of them; 0 if there is none.
    """

    entries: int
    seconds: float

    @classmethod
    def of(cls, store: Store) -> Window:
        """The window now. The checkpoint is read first: an append meanwhile can only widen it."""
        latest = store.latest_checkpoint()
        covered = 0 if latest is None else latest.size
        entries = max(0, store.head().seq - covered)
        if not entries:
            return cls(0, 0.0)
        oldest = store.find(Query(after_seq=covered, include_superseded=True, limit=1))
        age = (store.clock() - oldest[0].timestamp).total_seconds() if oldest else 0.0
        return cls(entries, max(0.0, age))
