"""The signer: makes checkpoints, and never contradicts itself.

What it signed last is kept in a file of its own, outside the database, and written before anything
is published. It reads only what is new, checks it, and goes on with the tree it kept: so the work
is proportional to the new entries, and a log that was cut or rewritten can't get a signature.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secmon_dagster.audit.checkpoint import Checkpoint, origin_of
from secmon_dagster.audit.entry import GENESIS_HASH
from secmon_dagster.audit.files import alone, replacing
from secmon_dagster.audit.keys import KeyRing, load_signer, ring_file
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.audit.note import NoteSigner
from secmon_dagster.audit.scan import scan
from secmon_dagster.audit.store import Snapshot, Store, StoredCheckpoint
from secmon_dagster.audit.witness import Witness, witnesses
from secmon_dagster.errors import CheckpointError
from secmon_dagster.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class SignerState:
    """What was signed last."""

    origin: str
    size: int
    peaks: list[bytes]
    last_hash: bytes
    note: str
    published: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> SignerState | None:
        """The state of a file, or None if there is no file."""
        if not path.exists():
            return None
        raw = json.loads(path.read_text())
        return cls(
            raw["origin"],
            raw["size"],
            [bytes.fromhex(peak) for peak in raw["peaks"]],
            bytes.fromhex(raw["last_hash"]),
            raw["note"],
            raw["published"],
        )

    def save(self, path: Path) -> None:
        """Replace the file; whole or not at all."""
        content = {
            "origin": self.origin,
            "size": self.size,
            "peaks": [peak.hex() for peak in self.peaks],
            "last_hash": self.last_hash.hex(),
            "note": self.note,
            "published": self.published,
        }
        with replacing(path) as file:
            file.write(json.dumps(content).encode())


@dataclass(frozen=True)
class Publication:
    """A checkpoint and where it went.

    Attributes:
        new: whether it covers entries that the last one did not.
        failed: witness -> why it does not have it; it gets the next one.
    """

    note: str
    size: int
    new: bool
    published: tuple[str, ...]
    failed: dict[str, str]


class CheckpointSigner:
    """Signs the state of one log.

    Args:
        store: the log.
        signer: the private key.
        outside: where checkpoints go.
        state_file: what was signed last.
        ring: file of the public keys; the signer's own is added at its first signature.
        name: the log's name, first line of its checkpoints.
    """

    def __init__(
        self,
        store: Store,
        signer: NoteSigner,
        outside: Sequence[Witness],
        state_file: Path,
        ring: Path,
        name: str,
    ) -> None:
        self._store = store
        self._signer = signer
        self._outside = outside
        self._state_file = state_file
        self._ring = ring
        self._name = name

    @classmethod
    def from_settings(cls, store: Store, settings: Settings) -> CheckpointSigner:
        """The configured signer."""
        folder = settings.home / "keys"
        return cls(
            store,
            load_signer(settings),
            witnesses(settings),
            folder / "audit-signer.json",
            ring_file(settings),
            settings.audit_origin,
        )

    def checkpoint(self) -> Publication:
        """Sign the log as it is now and publish that; without news, publish the last note again to
        those who miss it.

        Raises:
            CheckpointError: the log is shorter than, or other than, what was signed, or what is
                signed can't be kept on disk. Nothing is published then.
        """
        try:
            return self._checkpoint()
        except OSError as failed:
            raise CheckpointError(f"the signer's files can't be written: {failed}") from None

    def _checkpoint(self) -> Publication:
        with self._exclusive():
            state = self._last_state()
            with self._store.snapshot() as snapshot:
                origin = origin_of(self._name, snapshot.head.incarnation)
                self._refuse_contradiction(snapshot, state, origin)
                new = state.note == "" or snapshot.head.seq > state.size
                if new:
                    state = self._sign(snapshot, state, origin)
            if new:
                state.save(self._state_file)
            failed = self._publish(state)
            state.save(self._state_file)
            return Publication(
                state.note,
                state.size,
                new,
                tuple(sorted(set(state.published) - set(failed))),
                failed,
            )

    def forget(self) -> None:
        """Begin anew, for a new incarnation; what was signed last is kept beside."""
        with self._exclusive():
            if self._state_file.exists():
                number = len(list(self._state_file.parent.glob("*.json.old-*"))) + 1
                self._state_file.rename(
                    self._state_file.with_name(f"{self._state_file.name}.old-{number}")
                )

    def _refuse_contradiction(self, snapshot: Snapshot, state: SignerState, origin: str) -> None:
        head = snapshot.head
        if state.origin not in ("", origin):
            raise CheckpointError(
                f"the log says it is {origin}, but {state.origin} was signed last",
                hint="After a legitimate restore: `secmon audit checkpoint --new-incarnation`.",
            )
        if head.seq < state.size:
            raise CheckpointError(
                f"the log has {head.seq} entries, but {state.size} were signed: entries are gone",
                hint="After a legitimate restore: `secmon audit checkpoint --new-incarnation`.",
            )
        if head.seq == state.size and head.entry_hash != state.last_hash:
            raise CheckpointError(f"entry {head.seq} is not the one that was signed")

    def _sign(self, snapshot: Snapshot, state: SignerState, origin: str) -> SignerState:
        first, last = state.size + 1, snapshot.head.seq
        found = scan(
            snapshot.rows(first, last),
            first,
            previous_hash=state.last_hash,
            tree=Frontier(state.size, state.peaks),
        )
        if found.invalid_count or found.break_count or found.tree.size != last:
            problem = [*found.invalid, *found.breaks]
            where = f"entry {problem[0].seq}" if problem else f"{found.tree.size} of {last} entries"
            raise CheckpointError(
                f"the new entries don't hold ({where}); nothing was signed",
                hint="`secmon audit verify` names everything that is wrong.",
            )
        last_hash = found.last_hash or state.last_hash
        if last_hash != snapshot.head.entry_hash:
            raise CheckpointError("the last entry is not the one that the head names")
        checkpoint = Checkpoint(origin, last, found.tree.root)
        ring = KeyRing.load(self._ring)
        if self._signer.key not in ring.keys:
            # The first key vouches for the log from its beginning, a later one from here on.
            ring.with_key(self._signer.key, last if ring.entries else 0).save(self._ring)
        return SignerState(
            origin,
            last,
            found.tree.peaks,
            last_hash,
            checkpoint.sign([self._signer]),
            state.published,
        )

    def _publish(self, state: SignerState) -> dict[str, str]:
        checkpoint, _ = Checkpoint.open(state.note, [])
        made, latest = datetime.now(UTC), self._store.latest_checkpoint()
        if latest is not None:
            # The last one made is the latest one, wherever the clock was set meanwhile.
            made = max(made, latest.created_at + timedelta.resolution)
        self._store.save_checkpoint(
            StoredCheckpoint(
                state.origin,
                state.size,
                checkpoint.root,
                b"".join(state.peaks),
                state.last_hash,
                state.note,
                made,
            )
        )
        failed = {}
        for witness in self._outside:
            if state.published.get(witness.name) == state.size:
                continue
            try:
                witness.publish(state.note)
                state.published[witness.name] = state.size
            except CheckpointError as refused:
                # Appends and other witnesses go on; the sensor alerts on the gap.
                log.error("checkpoint %d was not published: %s", state.size, refused)
                failed[witness.name] = refused.message
        return failed

    def _last_state(self) -> SignerState:
        """What was signed last; if the file is lost, what the witnesses and the database hold."""
        state = SignerState.load(self._state_file)
        if state is not None:
            return state
        notes = [note for witness in self._outside for note in witness.notes()]
        with self._store.snapshot() as snapshot:
            notes += [stored.note for stored in snapshot.checkpoints()]
            origin = origin_of(self._name, snapshot.head.incarnation)
            return self._recovered(snapshot, notes, origin)

    def _recovered(self, snapshot: Snapshot, notes: list[str], origin: str) -> SignerState:
        keys = [*KeyRing.load(self._ring).keys, self._signer.key]
        largest: tuple[Checkpoint, str] | None = None
        for note in dict.fromkeys(notes):
            checkpoint, signed = Checkpoint.open(note, keys)
            own = signed and checkpoint.origin == origin
            if own and (largest is None or checkpoint.size > largest[0].size):
                largest = checkpoint, note
        if largest is None:
            return SignerState("", 0, [], GENESIS_HASH, "")
        checkpoint, note = largest
        if checkpoint.size > snapshot.head.seq:
            raise CheckpointError(
                f"the log has {snapshot.head.seq} entries, but {checkpoint.size} were signed"
            )
        tree, last_hash = Frontier(), GENESIS_HASH
        for first in range(1, checkpoint.size + 1, 65_536):
            leaves = snapshot.leaves(first, min(first + 65_535, checkpoint.size))
            tree.extend(leaves)
            last_hash = leaves[-1] if leaves else last_hash
        if tree.size != checkpoint.size or tree.root != checkpoint.root:
            raise CheckpointError(
                f"the first {checkpoint.size} entries are not those that were signed"
            )
        return SignerState(origin, checkpoint.size, tree.peaks, last_hash, note)

    def _exclusive(self) -> AbstractContextManager[None]:
        """One signer at a time on this machine."""
        return alone(self._state_file.with_suffix(".lock"))
