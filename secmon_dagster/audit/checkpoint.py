"""Checkpoints: what the log publishes about itself (https://c2sp.org/tlog-checkpoint).

Three lines in a signed note: the log's origin, the number of entries, the root of their tree. The
origin carries ``#n`` from the second incarnation on: after a legitimate restore from a backup the
log goes on under a new name instead of contradicting what it signed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from secmon_dagster.audit.note import NoteKey, NoteSigner, open_note, sign_note
from secmon_dagster.errors import CheckpointError

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state: entries and the root of the tree over their hashes."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, signers: Sequence[NoteSigner]) -> str:
        """The signed note."""
        return sign_note(self.text, signers)

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """The checkpoint of a note's text; extension lines are allowed and ignored.

        Raises:
            CheckpointError: naming the line that is wrong.
        """
        lines = text.split("\n")
        if len(lines) < 4:
            raise CheckpointError(f"a checkpoint has {len(lines) - 1} lines; needed: 3")
        origin, size, encoded = lines[:3]
        if not origin:
            raise CheckpointError("a checkpoint has an empty origin")
        if not _SIZE.fullmatch(size):
            raise CheckpointError(
                f"a checkpoint's size is {size[:30]!r}; allowed: a decimal number"
            )
        try:
            root = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            root = b""
        if len(root) != 32 or base64.b64encode(root).decode() != encoded:
            raise CheckpointError(f"a checkpoint's root is {encoded[:60]!r}; needed: 32 bytes")
        return cls(origin, int(size), root)

    @classmethod
    def open(cls, note: str, keys: Sequence[NoteKey]) -> tuple[Checkpoint, list[NoteKey]]:
        """The checkpoint of a signed note, and which of ``keys`` signed it (maybe none).

        Raises:
            CheckpointError: malformed, or a known key's signature does not hold.
        """
        text, signed = open_note(note, keys)
        return cls.from_text(text), signed


def origin_of(name: str, incarnation: int) -> str:
    """First line of the checkpoints of an incarnation."""
    return name if incarnation == 1 else f"{name}#{incarnation}"


def incarnation_of(origin: str, name: str) -> int | None:
    """The number of the incarnation; None if ``origin`` is another log's."""
    if origin == name:
        return 1
    number = origin.removeprefix(f"{name}#")
    return int(number) if number != origin and number.isdecimal() and int(number) > 1 else None
