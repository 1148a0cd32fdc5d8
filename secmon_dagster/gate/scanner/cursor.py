"""A forward reader over a source: windows, lines, lengths, and skips that read nothing."""

from __future__ import annotations

import struct

from .budget import UnreadableError
from .source import Source

WINDOW = 1 << 20


class Cursor:
    """Reads forward through ``source`` from ``start``; everything past the end is an error."""

    def __init__(self, source: Source, start: int = 0) -> None:
        self._source = source
        self._base = start
        self._window = b""
        self._at = 0  # offset in the window

    @property
    def offset(self) -> int:
        """Where the next byte is read, from the start of the source."""
        return self._base + self._at

    def _refill(self) -> None:
        self._base += self._at
        self._window = self._source.read(self._base, WINDOW)
        self._at = 0

    def _take(self, length: int) -> bytes:
        if self._at + length > len(self._window):
            self._refill()
            if length > len(self._window):
                data = self._source.read(self._base, length)
                if len(data) < length:
                    raise UnreadableError(f"the pickle is cut off at {self.offset}")
                self._base += length
                self._window, self._at = b"", 0
                return data
        data = self._window[self._at : self._at + length]
        self._at += length
        return data

    def _byte(self) -> int:
        return self._take(1)[0]

    def _skip(self, length: int) -> None:
        if self.offset + length > self._source.size:
            raise UnreadableError(
                f"{length} bytes are promised at {self.offset}, {self._source.size} are there"
            )
        if self._at + length <= len(self._window):
            self._at += length
            return
        self._base, self._window, self._at = self.offset + length, b"", 0

    def _line(self) -> bytes:
        end = self._window.find(b"\n", self._at)
        if end < 0:
            self._refill()
            end = self._window.find(b"\n", self._at, self._at + WINDOW)
            if end < 0:
                raise UnreadableError(f"a line of the pickle does not end at {self.offset}")
        line = self._window[self._at : end]
        self._at = end + 1
        return line

    def _index_line(self) -> int:
        line = self._line().strip()
        if not line.isdigit() or len(line) > 18:
            raise UnreadableError(f"no memo index is {line[:20]!r} at {self.offset}")
        return int(line)

    def _text_line(self) -> str:
        return self._line().decode("utf-8", "surrogateescape")

    def _length(self, form: str) -> int:
        (length,) = struct.unpack(form, self._take(struct.calcsize(form)))
        if length < 0:
            raise UnreadableError(f"a negative length at {self.offset}")
        return int(length)
