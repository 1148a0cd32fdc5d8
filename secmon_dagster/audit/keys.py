"""Keys that sign checkpoints: where the private one comes from, and which public ones count.

The private key comes from ``SECMON_AUDIT_SIGNING_KEY``, or from a file that is made at first use,
or, for a key in a KMS, an HSM or a vault, from ``securesystemslib`` by its URI. The ring lists the
public keys with the log size from which each may sign: a key that came later does not vouch for
checkpoints made before it, so whoever steals today's key can't re-sign yesterday's log.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from secmon_dagster.audit.files import alone, replacing
from secmon_dagster.audit.note import ED25519, NoteKey, NoteSigner
from secmon_dagster.errors import CheckpointError, SettingsError
from secmon_dagster.settings import Settings

_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True)
class LocalKey:
    """A private key in this process's memory."""

    name: str
    private: Ed25519PrivateKey

    @property
    def key(self) -> NoteKey:
        """The public half."""
        return NoteKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature."""
        return self.private.sign(message)

    @property
    def secret_text(self) -> str:
        """The note form of the private key; for the key file only."""
        raw = base64.b64encode(ED25519 + self.private.private_bytes_raw()).decode()
        return f"{_PRIVATE}{self.name}+{self.key.key_id.hex()}+{raw}"

    def __repr__(self) -> str:
        return f"LocalKey({self.key})"


class RemoteKey:
    """A private key that ``securesystemslib`` reaches by a URI (file, KMS, HSM, vault).

    Args:
        name: the key's name in notes.
        uri: as ``securesystemslib.signer.Signer.from_priv_key_uri`` takes it.
        public_key_file: the public key as securesystemslib writes it, JSON with ``keyid``.
    """

    def __init__(self, name: str, uri: str, public_key_file: Path) -> None:
        try:
            from securesystemslib.signer._key import Key
            from securesystemslib.signer._signer import Signer
        except ImportError:
            raise SettingsError(
                "SECMON_AUDIT_SIGNING_KEY is a URI, which needs securesystemslib",
                hint="Install secmon-dagster[keys].",
            ) from None
        content = json.loads(public_key_file.read_text())
        public = Key.from_dict(content.pop("keyid"), content)
        if public.keytype != "ed25519":
            raise SettingsError(f"{public_key_file} holds a {public.keytype} key; allowed: ed25519")
        self._signer = Signer.from_priv_key_uri(uri, public)
        self.key = NoteKey(name, bytes.fromhex(public.keyval["public"]))

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature."""
        return bytes.fromhex(self._signer.sign(message).signature)


def load_signer(settings: Settings) -> NoteSigner:
    """The configured private key; a key file is made if there is none.

    Raises:
        SettingsError: the key can't be read. Never shows it.
    """
    name = settings.audit_origin.replace("+", "-").replace(" ", "-")
    path = key_file(settings)
    if settings.audit_signing_key is not None:
        secret = settings.audit_signing_key.get_secret_value().strip()
        if secret.startswith("uri:"):
            return RemoteKey(name, secret.removeprefix("uri:"), path)
        return _parse(secret, name, "SECMON_AUDIT_SIGNING_KEY")
    if not path.exists():
        _make_key_file(path, name)
    return _parse(path.read_text().strip(), name, str(path))


def key_file(settings: Settings) -> Path:
    """Where the private key is kept."""
    return settings.audit_signing_key_file or settings.home / "keys" / "audit.key"


def new_key_file(path: Path, name: str) -> LocalKey:
    """Make a key and write it where only this user can read it; keep a former one beside it."""
    if path.exists():
        number = len(list(path.parent.glob(f"{path.name}.old-*"))) + 1
        path.rename(path.with_name(f"{path.name}.old-{number}"))
    _make_key_file(path, name)
    return _parse(path.read_text().strip(), name, str(path))


def _make_key_file(path: Path, name: str) -> None:
    """A file with a new key, unless another process was faster: then that one's key counts."""
    key = LocalKey(name, Ed25519PrivateKey.generate())
    with alone(path.with_name(path.name + ".lock")):
        if not path.exists():
            with replacing(path, 0o600) as file:
                file.write(f"{key.secret_text}\n".encode())


def _parse(secret: str, name: str, source: str) -> LocalKey:
    try:
        if secret.startswith(_PRIVATE):
            own_name, _, rest = secret.removeprefix(_PRIVATE).partition("+")
            raw = base64.b64decode(rest.partition("+")[2], validate=True)
            if raw[:1] != ED25519 or len(raw) != 33:
                raise ValueError("no Ed25519 key")
            return LocalKey(own_name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
        private = load_pem_private_key(secret.encode(), password=None)
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("no Ed25519 key")
        return LocalKey(name, private)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Nothing of the parser's message: it may quote the key.
        raise SettingsError(
            f"{source} holds no Ed25519 private key; allowed: PRIVATE+KEY+NAME+ID+BASE64 or PEM"
        ) from None


@dataclass(frozen=True)
class RingEntry:
    """A public key and the size of the log from which it signs."""

    key: NoteKey
    from_size: int


@dataclass(frozen=True)
class KeyRing:
    """The public keys whose checkpoints count, oldest first."""

    entries: tuple[RingEntry, ...] = ()

    @property
    def keys(self) -> list[NoteKey]:
        """The keys alone."""
        return [entry.key for entry in self.entries]

    def refusal(self, key: NoteKey, size: int) -> str | None:
        """Why ``key`` may not have signed a checkpoint of this size; None if it may."""
        for entry in self.entries:
            if entry.key == key and size < entry.from_size:
                return f"key {key.key_id.hex()} signs from size {entry.from_size} on, not {size}"
        return None

    def with_key(self, key: NoteKey, from_size: int) -> KeyRing:
        """The ring with one more key."""
        return KeyRing((*self.entries, RingEntry(key, from_size)))

    @classmethod
    def of(cls, texts: Sequence[str]) -> KeyRing:
        """A ring of keys given by their text form, each for all sizes."""
        return cls(tuple(RingEntry(NoteKey.from_text(text), 0) for text in texts))

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The ring of a file: a line a key, ``KEY [from size]``. Empty if there is no file.

        Raises:
            CheckpointError: a line is malformed.
        """
        if not path.exists():
            return cls()
        entries = []
        for line in path.read_text().splitlines():
            text, _, size = line.partition(" ")
            if size and not size.strip().isdecimal():
                raise CheckpointError(f"{path} has the size {size!r} beside a key")
            entries.append(RingEntry(NoteKey.from_text(text), int(size or 0)))
        return cls(tuple(entries))

    def save(self, path: Path) -> None:
        """Write the file."""
        with replacing(path) as file:  # a verifier may be reading it
            for entry in self.entries:
                file.write(f"{entry.key} {entry.from_size}\n".encode())


def ring_file(settings: Settings) -> Path:
    """Where the ring is kept."""
    return settings.home / "keys" / "audit.pub"
