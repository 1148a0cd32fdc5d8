"""Signed notes as C2SP specifies them (https://c2sp.org/signed-note), with Ed25519.

A note is UTF-8 text that ends with a newline, an empty line, and signature lines
``— NAME base64(key id ‖ signature)``. A key's id is the start of SHA-256(name ‖ newline ‖ 0x01 ‖
public key), and its text form ``NAME+hex(key id)+base64(0x01 ‖ public key)``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secmon_dagster.errors import CheckpointError

ED25519 = b"\x01"
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100


class NoteSigner(Protocol):
    """Something that holds a private key."""

    @property
    def key(self) -> NoteKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature."""
        ...


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key with its name."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys apart."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def from_text(cls, text: str) -> NoteKey:
        """The key of its text form.

        Raises:
            CheckpointError: malformed, of another kind, or with another key's id.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _decode(encoded, "the public key")
        if raw[:1] != ED25519 or len(raw) != 33:
            raise CheckpointError(f"the public key {name!r} is no Ed25519 key")
        key = cls(_name(name), raw[1:])
        if key.key_id.hex() != key_id:
            raise CheckpointError(
                f"the public key {name!r} has the id {key.key_id.hex()}, but says {key_id!r}"
            )
        return key


def sign_note(text: str, signers: Sequence[NoteSigner]) -> str:
    """The note with a signature line of each signer.

    Raises:
        CheckpointError: the text does not end with a newline.
    """
    if not text.endswith("\n"):
        raise CheckpointError("a note's text must end with a newline")
    lines = [
        f"— {signer.key.name} "
        + base64.b64encode(signer.key.key_id + signer.sign(text.encode())).decode()
        for signer in signers
    ]
    return text + "\n" + "\n".join(lines) + "\n"


def open_note(note: str, keys: Sequence[NoteKey]) -> tuple[str, list[NoteKey]]:
    """The text of a note, and which of ``keys`` signed it.

    Returns:
        The text and the keys; none if the note has only signatures of unknown keys.

    Raises:
        CheckpointError: malformed, or a signature by a known key does not hold.
    """
    try:
        size = len(note.encode())
    except UnicodeEncodeError:
        raise CheckpointError("a note is not valid UTF-8") from None
    if size > MAX_NOTE_BYTES:
        raise CheckpointError(f"a note is longer than {MAX_NOTE_BYTES} bytes")
    if any(ord(character) < 0x20 and character != "\n" for character in note):
        raise CheckpointError("a note contains control characters")
    head, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise CheckpointError("a note has no signatures, or is cut off")
    text = head + "\n"
    signed: list[NoteKey] = []
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointError(f"a note has {len(lines)} signatures; allowed: {MAX_SIGNATURES}")
    for line in lines:
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if dash != "—" or not encoded:
            raise CheckpointError(f"a signature line is malformed: {line[:80]!r}")
        raw = _decode(encoded, "a signature")
        if len(raw) < 5:
            raise CheckpointError("a signature is too short")
        for key in keys:
            if key.name == name and key.key_id == raw[:4] and key not in signed:
                _check(key, raw[4:], text)
                signed.append(key)
    return text, signed


def _check(key: NoteKey, signature: bytes, text: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except InvalidSignature:
        raise CheckpointError(f"the signature by {key.name} does not fit the note") from None


def _name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() for character in name):
        raise CheckpointError(f"a key is named {name!r}; allowed: no blanks and no plus signs")
    return name


def _decode(encoded: str, what: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise CheckpointError(f"{what} is no base64: {encoded[:40]!r}") from None
