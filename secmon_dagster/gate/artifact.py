"""Artifacts: files that may be downloaded or loaded, and private snapshots of their bytes.

What is judged and what is served is a snapshot: the bytes are copied into a private file while
they are hashed, and each piece of the copy is proved again when it is read (``sealed.py``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from secmon_dagster.errors import ArtifactBlockedError, InvalidInputError, NotFoundError
from secmon_dagster.gate.sealed import PIECE, Seal, SealedFile, read_piece, state_of

MAX_NAME = 4096


@dataclass(frozen=True)
class Artifact:
    """A row of ``artifacts``. ``sha256`` is None until its bytes were seen; so is ``path`` for an
    artifact that only lives at a URL."""

    id: str
    name: str
    type: str
    path: Path | None = None
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    uploaded_by: str | None = None
    is_sensitive: bool = False
    monitoring_script: str | None = None
    require_approval: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None


def artifact_of(row: Mapping[str, Any]) -> Artifact:
    """A row of ``artifacts`` as an artifact."""
    return Artifact(**{**row, "path": Path(row["path"]) if row["path"] else None})


@dataclass(frozen=True)
class Snapshot:
    """Bytes that can't change unnoticed: a private copy at ``path``, and its hash."""

    path: Path
    _file: SealedFile
    _made: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return self._file.size

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return self._file.sha256

    def open(self) -> SealedFile:
        """The bytes, to be read after the copy's name is gone; to be closed by who gets it."""
        return self._file.duplicate()

    def prove(self) -> None:
        """Raise if what ``path`` led to may have been anything but these bytes until now.

        The kernel moves an inode's change time with every write, rename and link, and lets nobody
        set it; what happened within the clock's tick of the copy shows in the tags.

        Raises:
            ArtifactBlockedError: the copy was replaced or changed.
        """
        try:
            now = state_of(self.path.stat(follow_symlinks=False))
        except OSError:
            now = None
        if now != self._made:
            raise ArtifactBlockedError("the gate's copy was changed while it was checked")
        self._file.prove()


def open_regular(path: Path | str) -> int:
    """A descriptor on a regular file, following no symbolic link at the end of ``path``.

    Raises:
        NotFoundError: nothing is there.
        InvalidInputError: what is there is no regular file, or can't be read.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise InvalidInputError.of("path", text, "a path without NUL")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(text, flags)
    except FileNotFoundError:
        raise NotFoundError(f"no file is at {text!r}", path=text) from None
    except OSError as refused:
        kind = "a symbolic link" if refused.errno == errno.ELOOP else refused.strerror
        raise InvalidInputError(
            f"path is {text!r} ({kind}); allowed: a readable regular file", path=text
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InvalidInputError.of("path", text, "a regular file")
    return descriptor


@contextmanager
def snapshot(path: Path | str, folder: Path, *, max_bytes: int) -> Iterator[Snapshot]:
    """A private copy of ``path`` under ``folder``, hashed while it was made; gone afterwards.

    Raises:
        NotFoundError: nothing is there.
        InvalidInputError: no regular file, or larger than ``max_bytes``.
    """
    source = open_regular(path)
    try:
        size = os.fstat(source).st_size
        if size > max_bytes:
            raise InvalidInputError.of("size", size, f"0 to {max_bytes} bytes")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = Path(tempfile.mkdtemp(prefix="snapshot-", dir=folder))
        try:
            copy = private / safe_file_name(Path(path).name)
            with _copy(source, copy, max_bytes) as file:
                yield Snapshot(copy, file, file.state())
        finally:
            shutil.rmtree(private, ignore_errors=True)
    finally:
        os.close(source)


def _copy(source: int, target: Path, max_bytes: int) -> SealedFile:
    digest, size, seal = hashlib.sha256(), 0, Seal()
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            while True:
                piece = read_piece(source, size // PIECE)
                digest.update(piece)
                seal.add(piece)
                file.write(piece)
                size += len(piece)
                if size > max_bytes:
                    raise InvalidInputError.of(
                        "size", f"at least {size}", f"0 to {max_bytes} bytes"
                    )
                if len(piece) < PIECE:
                    break
        return SealedFile(descriptor, size, digest.hexdigest(), seal)
    except BaseException:
        os.close(descriptor)
        raise


def safe_file_name(name: str) -> str:
    """A name that is one component and keeps its extension; the rest is cut to 100 characters."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".-") or "file"
    stem, dot, suffix = plain.rpartition(".")
    return f"{stem[:100]}.{suffix[:20]}" if dot and stem else plain[:100]


def check_name(field_name: str, name: str) -> str:
    """``name``, if it can be stored and passed to a program.

    Raises:
        InvalidInputError: empty, longer than 4096 characters, or holding NUL or lone surrogates.
    """
    unusable = any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name)
    if not name or len(name) > MAX_NAME or unusable:
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise InvalidInputError.of(field_name, shown, f"1 to {MAX_NAME} characters without NUL")
    return name
