"""The bytes an entry is hashed over.

They are the tuple encoding of PostgreSQL's ``COPY … (FORMAT BINARY)``: for each field an int32
length (-1 for NULL) and the bytes; int8 big-endian; a timestamp as int64 microseconds since
2000-01-01 UTC. So a verifier hashes two slices of what the server sends and parses nothing::

    ┌ 2 ┬── seq 12 ──┬─ previous_hash 36 ─┬─ timestamp 12 ─┬─ db_user … details ─┬─ entry_hash 36 ─┐
    content    = SHA-256("secmon-audit/v1" NUL ‖ db_user … details)
    entry_hash = SHA-256(0x01 ‖ seq ‖ previous_hash ‖ timestamp ‖ content)

Two levels, because what the caller says can then be hashed before the chain's lock is taken. The
encoding is injective: every field carries its length, and the number of fields is fixed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import cast

from secmon_dagster.audit.entry import AuditEntry

TAG = b"secmon-audit/v1\x00"

# Offsets in a COPY tuple, after the int16 field count.
FIXED_START, FIXED_END = 2, 62
CONTENT_END, HASH_START = -36, -32

FIELD_COUNT = struct.pack(">h", 17)
COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
COPY_HEADER_BYTES = 19
COPY_TRAILER = b"\xff\xff"

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NULL = b"\xff\xff\xff\xff"
_LENGTH = struct.Struct(">i").pack
_MICROSECOND = timedelta(microseconds=1)

# db_user, entry_id, level | event_type | action, actor, resource_type | the others may be NULL
_Texts = tuple[
    str, str, str, str | None, str, str, str,
    str | None, str | None, str | None, str | None, str | None, str | None,
]  # fmt: skip


def encode_fields(values: Iterable[str | None]) -> bytes:
    """Length-prefixed UTF-8, -1 for None."""
    encoded = [None if value is None else value.encode() for value in values]
    return b"".join([_NULL if value is None else _LENGTH(len(value)) + value for value in encoded])


def microseconds(moment: datetime) -> int:
    """Microseconds since 2000-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(microseconds_since_2000: int) -> datetime:
    """The inverse of :func:`microseconds`."""
    return _EPOCH + timedelta(microseconds=microseconds_since_2000)


def content_hash(values: Iterable[str | None]) -> bytes:
    """Hash of an entry's fields from ``db_user`` to ``details``."""
    return sha256(TAG + encode_fields(values)).digest()


def entry_hash(seq: int, previous_hash: bytes, moment: datetime, content: bytes) -> bytes:
    """Hash of an entry at its place in the chain.

    Raises:
        ValueError: the place is none: a hash of another length, or a number beyond an int8.
    """
    return sha256(b"\x01" + _fixed(seq, previous_hash, moment) + content).digest()


def expected_hash(entry: AuditEntry) -> bytes:
    """The hash ``entry`` should have by its other fields."""
    content = content_hash(entry[3:-1])
    return entry_hash(entry.seq, bytes.fromhex(entry.previous_hash), entry.timestamp, content)


def encode_row(entry: AuditEntry) -> bytes:
    """The COPY tuple of an entry, for back ends and files that are not PostgreSQL's."""
    return b"".join(
        (
            FIELD_COUNT,
            _fixed(entry.seq, bytes.fromhex(entry.previous_hash), entry.timestamp),
            encode_fields(entry[3:-1]),
            struct.pack(">i", 32),
            bytes.fromhex(entry.entry_hash),
        )
    )


def decode_row(row: bytes) -> AuditEntry:
    """The entry of a COPY tuple.

    Raises:
        ValueError: the bytes are no such tuple.
    """
    if row[:2] != FIELD_COUNT:
        raise ValueError(f"a tuple begins with {row[:2].hex()}; expected {FIELD_COUNT.hex()}")
    values: list[bytes | None] = []
    at = 2
    for _ in range(17):
        (length,) = struct.unpack_from(">i", row, at)
        at += 4
        if length < 0:
            values.append(None)
            continue
        if at + length > len(row):
            raise ValueError(f"a field of {length} bytes at {at} exceeds a tuple of {len(row)}")
        values.append(row[at : at + length])
        at += length
    if at != len(row):
        raise ValueError(f"{len(row) - at} bytes follow the last field")
    seq, previous, moment, *texts, last = values
    if seq is None or previous is None or moment is None or last is None:
        raise ValueError("a field that can't be NULL is NULL")
    decoded = [None if text is None else text.decode() for text in texts]
    return AuditEntry(
        int.from_bytes(seq, signed=True),
        previous.hex(),
        moment_of(int.from_bytes(moment, signed=True)),
        *cast("_Texts", tuple(decoded)),
        last.hex(),
    )


def _fixed(seq: int, previous_hash: bytes, moment: datetime) -> bytes:
    if len(previous_hash) != 32:  # struct would fill it up, or cut it off
        raise ValueError(f"a previous hash of {len(previous_hash)} bytes; needed: 32")
    try:
        return struct.pack(">iqi32siq", 8, seq, 32, previous_hash, 8, microseconds(moment))
    except struct.error as wrong:
        raise ValueError(f"seq is {seq!r}: {wrong}") from None
