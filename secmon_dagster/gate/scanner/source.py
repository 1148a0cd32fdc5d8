"""Random access to bytes that may be a file, a part of it, or something inflated.

Nothing is mapped into memory: a file that shrinks while it is mapped ends the reader with SIGBUS.
"""

from __future__ import annotations

import os
from typing import IO, Protocol

from .budget import UnreadableError


class Source(Protocol):
    """``size`` bytes that can be read anywhere."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; shorter only at the end."""
        ...


class Bytes:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])


class Descriptor:
    """An open file by its descriptor; the file position is not touched."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        pieces = []
        while length:
            piece = os.pread(self._descriptor, min(length, 1 << 24), offset)
            if not piece:
                raise UnreadableError(f"the file became shorter while it was read, at {offset}")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Spool:
    """Inflated bytes in a (temporary) file object."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        if offset >= self.size or length <= 0:
            return b""
        self._file.seek(offset)
        return self._file.read(length)


class Part:
    """A window of another source, nothing copied."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > source.size:
            raise UnreadableError(f"bytes {start} to {start + size} of {source.size}")
        self._source = source
        self._start = start
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        return self._source.read(self._start + offset, length) if length > 0 else b""
