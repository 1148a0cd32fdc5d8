"""Bytes that can't change unnoticed: each piece is proved again at the moment it is read.

A private copy keeps its bytes from whoever may write to the original. It does not keep them from a
process of the same user, which can write to the copy itself, even after its name is gone (through
``/proc/PID/fd``). So every piece gets a tag while the bytes are hashed, and a piece that does not
match its tag is never handed out.

Tags are AES-GCM over no plaintext (GMAC) under a key that is made for one copy and never leaves
this process: ten times as fast as SHA-256, which would need one pass over the whole.

Source: NIST SP 800-38D.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secmon_dagster.errors import ArtifactBlockedError

PIECE = 1 << 20


class Seal:
    """The tags of a copy's pieces, in order."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(128))
        self._tags: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self._tags.append(self._cipher.encrypt(_nonce(len(self._tags)), b"", piece))

    def prove(self, index: int, piece: bytes) -> None:
        """Raise unless ``piece`` is what was taken as piece ``index``.

        Raises:
            ArtifactBlockedError: it is something else.
        """
        try:
            self._cipher.decrypt(_nonce(index), self._tags[index], piece)
        except (InvalidTag, IndexError):
            raise ArtifactBlockedError(
                f"the gate's copy was changed after it was hashed (piece {index})",
                hint="a process of the same user wrote to it: look for what runs on this machine",
            ) from None


def read_piece(descriptor: int, index: int) -> bytes:
    """Piece ``index`` of a file: PIECE bytes, fewer at its end only."""
    start, piece = index * PIECE, b""
    while len(piece) < PIECE:
        more = os.pread(descriptor, PIECE - len(piece), start + len(piece))
        if not more:
            break
        piece = piece + more if piece else more
    return piece


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """What can't stay the same when an inode's bytes or names change: who writes moves ctime."""
    return status.st_dev, status.st_ino, status.st_nlink, status.st_size, status.st_ctime_ns


class SealedFile(io.RawIOBase):
    """A file whose bytes are the sealed ones, or reading raises.

    There is no ``fileno``: who read from the descriptor would read unproved bytes. The descriptor
    is closed with this file.
    """

    def __init__(self, descriptor: int, size: int, sha256: str, seal: Seal) -> None:
        super().__init__()
        self.size = size
        self.sha256 = sha256
        self._descriptor = descriptor
        self._seal = seal
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def duplicate(self) -> SealedFile:
        """The same bytes, from their beginning, with a life of its own."""
        return SealedFile(os.dup(self._descriptor), self.size, self.sha256, self._seal)

    def state(self) -> tuple[int, ...]:
        """The copy's state now."""
        return state_of(os.fstat(self._descriptor))

    def piece(self, index: int) -> bytes:
        """Piece ``index``, proved.

        Raises:
            ArtifactBlockedError: the copy was changed.
        """
        number, piece = self._held
        if number != index:
            piece = read_piece(self._descriptor, index)
            self._seal.prove(index, piece)
            self._held = index, piece
        return piece

    def pieces(self, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last``, both included, piece by piece."""
        for index in range(first // PIECE, last // PIECE + 1):
            start = index * PIECE
            yield self.piece(index)[max(0, first - start) : last + 1 - start]

    def prove(self) -> None:
        """Read all of it once.

        Raises:
            ArtifactBlockedError: the copy was changed.
        """
        for _ in self.pieces(0, self.size - 1):
            pass

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` from one piece; 0 at the end."""
        if self._at >= self.size:
            return 0
        index, offset = divmod(self._at, PIECE)
        part = self.piece(index)[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def readall(self) -> bytes:
        """All from here to the end."""
        found = b"".join(self.pieces(self._at, self.size - 1))
        self._at = max(self._at, self.size)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where to read next; returns it."""
        at = offset + (0, self._at, self.size)[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def close(self) -> None:
        """Close the descriptor; more than once is harmless."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")
