"""Protocol buffers without a schema: fields of one message, values not copied.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .budget import UnreadableError
from .source import Part, Source


@dataclass(frozen=True)
class Field:
    """One field. ``number`` as in the schema; ``value`` of a varint, ``body`` of a message, text
    or bytes."""

    number: int
    value: int
    body: Source | None

    def text(self) -> str:
        """The body as text, at most 64 KiB of it."""
        return "" if self.body is None else self.body.read(0, 1 << 16).decode("utf-8", "replace")


def fields(source: Source) -> Iterator[Field]:
    """The fields of a message in order.

    Raises:
        UnreadableError: these bytes are no message.
    """
    at = 0
    while at < source.size:
        tag, at = _varint(source, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:  # some readers cut a longer one to 32 bits
            raise UnreadableError(f"no protobuf field has number {number}, at {at}")
        if kind == 0:
            value, at = _varint(source, at)
            yield Field(number, value, None)
        elif kind == 2:
            length, at = _varint(source, at)
            yield Field(number, 0, Part(source, at, length))
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > source.size:
                raise UnreadableError("a protobuf message is cut off")
            yield Field(number, 0, None)
        else:
            raise UnreadableError(f"no protobuf wire type is {kind}, at {at}")


def _varint(source: Source, at: int) -> tuple[int, int]:
    data = source.read(at, 10)
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise UnreadableError(f"a protobuf number does not end at {at}")
