"""Frames of JSON between a boxed process and the one that watches it.

A frame is a four-byte big-endian length and that many bytes. The reader trusts nothing: the other
end is code that somebody else wrote.
"""

from __future__ import annotations

import struct

from secmon_dagster.errors import LimitsError

_LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024
_BOOKKEEPING = 1024


class ChannelCorrupted(LimitsError):  # noqa: N818 - the state of the channel, read as a noun
    """Bytes that are not a frame."""


def weight(payload: bytes) -> int:
    """What a payload counts while it waits: many small ones take room, and time, too."""
    return len(payload) + _BOOKKEEPING


def encode_frame(payload: bytes) -> bytes:
    """Length and payload.

    Raises:
        LimitsError: the payload is larger than a frame may be.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise LimitsError(
            f"an event of {len(payload)} bytes is too large; allowed: {MAX_FRAME_BYTES} bytes"
        )
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a stream of bytes into payloads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Whole payloads that are now there, in order.

        Raises:
            ChannelCorrupted: a length no frame can have.
        """
        self._buffer += data
        payloads = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise ChannelCorrupted(
                    f"a frame claims {length} bytes; allowed: {MAX_FRAME_BYTES} bytes"
                )
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            payloads.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return payloads

    @property
    def pending(self) -> int:
        """Bytes of a frame that has not come in whole."""
        return len(self._buffer)
