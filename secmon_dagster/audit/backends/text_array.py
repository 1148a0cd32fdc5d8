"""Columns of a batch as ``text[]`` parameters.

The driver's own arrays are adapted value by value, which cost a lone append a third of its time.
The elements of a binary array are encoded as an entry's fields are (see ``encoding``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from secmon_dagster.audit.encoding import encode_fields

# Object ids of PostgreSQL's built-in types; they never change.
TEXT_OID, TEXT_ARRAY_OID = 25, 1009


@dataclass(frozen=True, slots=True)
class TextArray:
    """A one-dimensional array of texts and NULLs, encoded as ``array_recv`` reads it: dimensions,
    NULLs, element type, length, bound, elements."""

    encoded: bytes

    @classmethod
    def of(cls, values: Sequence[str | None]) -> TextArray:
        """Encode now, and not when it is sent: a bulk append does so beside the sending."""
        header = struct.pack(">iiiii", 1, None in values, TEXT_OID, len(values), 1)
        return cls(header + encode_fields(values))


class TextArrayDumper(Dumper):
    """As it is."""

    format = Format.BINARY
    oid = TEXT_ARRAY_OID

    def dump(self, obj: TextArray) -> Buffer:
        return obj.encoded
