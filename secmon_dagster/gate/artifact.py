"""Artifacts: files that may be downloaded or loaded, and private snapshots of their bytes.

What is judged and what is served is a snapshot: the bytes are copied into a private file while
they are hashed, so that nobody can change them between the hash and the use.
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

from secmon_dagster.errors import InvalidInputError, NotFoundError

CHUNK = 1 << 20
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


@dataclass(frozen=True)
class Snapshot:
    """Bytes that can't change any more: an open descriptor on a private copy, and its hash."""

    path: Path
    descriptor: int
    size: int
    sha256: str


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
            with _copied(source, copy, max_bytes) as snapshotted:
                yield snapshotted
        finally:
            shutil.rmtree(private, ignore_errors=True)
    finally:
        os.close(source)


@contextmanager
def _copied(source: int, copy: Path, max_bytes: int) -> Iterator[Snapshot]:
    digest, size = hashlib.sha256(), 0
    created = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(created, "wb") as target:
        while piece := os.pread(source, CHUNK, size):
            digest.update(piece)
            target.write(piece)
            size += len(piece)
            if size > max_bytes:
                raise InvalidInputError.of("size", f"more than {size}", f"0 to {max_bytes} bytes")
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Snapshot(copy, descriptor, size, digest.hexdigest())
    finally:
        os.close(descriptor)


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
