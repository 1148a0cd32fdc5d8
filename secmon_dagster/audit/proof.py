"""Proofs that need no database: an entry is in the log, or the log only grew.

Both are JSON. Who checks one needs the log's public key and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.audit.encoding import expected_hash
from secmon_dagster.audit.entry import FIELDS, AuditEntry
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.merkle import (
    SubtreeHasher,
    root_from_inclusion,
    roots_from_consistency,
)
from secmon_dagster.audit.store import Snapshot
from secmon_dagster.errors import ChainTamperedError, CheckpointError, InvalidInputError

FORMAT_NAME = "secmon-audit-proof/1"


@dataclass(frozen=True)
class ProofResult:
    """What a proof that holds has shown."""

    sentence: str
    checkpoint: Checkpoint


def hasher_of(snapshot: Snapshot) -> SubtreeHasher:
    """Subtree roots over a chain; leaf i is the entry with seq i + 1."""
    return SubtreeHasher(lambda first, count: snapshot.leaves(first + 1, first + count))


def prove_inclusion(snapshot: Snapshot, entry: AuditEntry, note: str) -> dict[str, Any]:
    """A proof that ``entry`` is covered by the checkpoint ``note``.

    Raises:
        CheckpointError: the checkpoint is older than the entry.
    """
    checkpoint, _ = Checkpoint.open(note, [])
    if entry.seq > checkpoint.size:
        raise CheckpointError(
            f"entry {entry.seq} is newer than the last checkpoint (size {checkpoint.size})",
            hint="Make one with `secmon audit checkpoint`.",
        )
    path = hasher_of(snapshot).inclusion_path(entry.seq - 1, checkpoint.size)
    return {
        "format": FORMAT_NAME,
        "kind": "inclusion",
        "entry": raw_fields(entry),
        "path": [step.hex() for step in path],
        "checkpoint": note,
    }


def prove_consistency(snapshot: Snapshot, old_note: str, new_note: str) -> dict[str, Any]:
    """A proof that the log of ``old_note`` is the beginning of that of ``new_note``."""
    old, _ = Checkpoint.open(old_note, [])
    new, _ = Checkpoint.open(new_note, [])
    if old.size > new.size:
        raise CheckpointError(f"the old checkpoint has {old.size} entries, the new {new.size}")
    path = hasher_of(snapshot).consistency_path(old.size, new.size)
    return {
        "format": FORMAT_NAME,
        "kind": "consistency",
        "old_checkpoint": old_note,
        "path": [step.hex() for step in path],
        "checkpoint": new_note,
    }


def check_proof(proof: Mapping[str, Any], ring: KeyRing) -> ProofResult:
    """Check a proof with the log's public keys.

    Raises:
        ChainTamperedError: it does not hold.
        CheckpointError: a signature does not hold or is by an unknown key.
        InvalidInputError: it is no proof.
    """
    if proof.get("format") != FORMAT_NAME:
        raise InvalidInputError.of("format", proof.get("format"), FORMAT_NAME)
    try:
        path = [bytes.fromhex(step) for step in proof["path"]]
        new = trusted(proof["checkpoint"], ring)
        match proof["kind"]:
            case "inclusion":
                return _check_inclusion(entry_from_raw(proof["entry"]), path, new)
            case "consistency":
                return _check_consistency(trusted(proof["old_checkpoint"], ring), path, new)
    except (KeyError, TypeError, AttributeError) as missing:
        raise InvalidInputError(f"the proof is incomplete: {missing}") from None
    except ValueError as malformed:
        raise ChainTamperedError(f"the proof does not hold: {malformed}") from None
    raise InvalidInputError.of("kind", proof["kind"], "inclusion, consistency")


def trusted(note: str, ring: KeyRing) -> Checkpoint:
    """The checkpoint of a note that a key of the ring signed and may have signed.

    Raises:
        CheckpointError: there is none.
    """
    checkpoint, signed = Checkpoint.open(note, ring.keys)
    if not signed:
        raise CheckpointError(
            "the checkpoint is signed by no known key",
            hint="Give the log's public key with --key; `secmon audit keys` prints it.",
        )
    refusals = [ring.refusal(key, checkpoint.size) for key in signed]
    if all(refusals):
        raise CheckpointError(str(refusals[0]))
    return checkpoint


def raw_fields(entry: AuditEntry) -> dict[str, Any]:
    """An entry in JSON types, ``data`` and ``details`` as the text that was hashed."""
    return entry._asdict() | {"timestamp": entry.timestamp.isoformat()}


def entry_from_raw(raw: Mapping[str, Any]) -> AuditEntry:
    """The inverse of :func:`raw_fields`."""
    values = {name: raw[name] for name in FIELDS}
    return AuditEntry(**values | {"timestamp": datetime.fromisoformat(raw["timestamp"])})


def _check_inclusion(entry: AuditEntry, path: list[bytes], new: Checkpoint) -> ProofResult:
    if expected_hash(entry).hex() != entry.entry_hash:
        raise ChainTamperedError(f"entry {entry.seq} does not have its hash {entry.entry_hash}")
    found = root_from_inclusion(bytes.fromhex(entry.entry_hash), entry.seq - 1, new.size, path)
    if found != new.root:
        raise ChainTamperedError(
            f"entry {entry.seq} is not in the log of {new.size} entries: expected the root "
            f"{new.root.hex()}, found {found.hex()}"
        )
    return ProofResult(
        f"entry {entry.seq} ({entry.entry_id}) is in the log of {new.size} entries", new
    )


def _check_consistency(old: Checkpoint, path: list[bytes], new: Checkpoint) -> ProofResult:
    if old.size == new.size and not path:
        found = (old.root, old.root)
    elif old.size == 0 and not path:
        found = (old.root, new.root)
    else:
        found = roots_from_consistency(old.size, new.size, old.root, path)
    if found != (old.root, new.root):
        raise ChainTamperedError(
            f"the log of {old.size} entries is not the beginning of that of {new.size}"
        )
    return ProofResult(f"the log grew from {old.size} to {new.size} entries", new)
