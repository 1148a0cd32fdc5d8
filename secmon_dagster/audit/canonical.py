"""Canonical JSON (RFC 8785) for what callers attach to an entry.

Made once, at append; the resulting bytes are stored and hashed and never made again. What machine
learning puts into payloads and JSON can't hold has one stated form:

=====================================  ===========================================================
NaN, +∞, -∞                            the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``
integers beyond ±(2⁵³ - 1)             their decimal digits as a string
numpy scalars, arrays                  Python numbers, nested lists
date, datetime, UUID, Path, Decimal    their text; a datetime in ISO 8601
enum members                           their value
tuple                                  a list
=====================================  ===========================================================

Refused, with the path to the offending value: keys that are no strings, lone surrogates, the
character U+0000 (PostgreSQL's jsonb can't hold it), bytes, sets and any other object.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
import rfc8785

from secmon_dagster.errors import EntryRefusedError

MAX_SAFE_INTEGER = 2**53 - 1
MAX_DEPTH = 64

# An escape \u0000 that is not itself behind an odd backslash.
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def canonical_json(value: Any, *, field: str, max_bytes: int) -> str | None:
    """The canonical JSON text of ``value``; None for None.

    Args:
        value: any tree of the types above.
        field: ``data`` or ``details``; named in errors.
        max_bytes: largest allowed size of the result in UTF-8.

    Raises:
        EntryRefusedError: the value can't be represented, or is too large.
    """
    if value is None:
        return None
    try:
        if _is_simple(value, 0):
            # Ten times faster, and on these values byte for byte the same; a test compares them.
            encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        else:
            encoded = rfc8785.dumps(value)  # refuses what the table above maps
    except (rfc8785.CanonicalizationError, UnicodeError, TypeError, ValueError, RecursionError):
        encoded = rfc8785.dumps(_plain(value, field, 0))
    if len(encoded) > max_bytes:
        raise EntryRefusedError(
            f"{field} has {len(encoded)} bytes as canonical JSON; allowed: at most {max_bytes}",
            hint="Store the payload as an artifact and log its hash, or raise "
            "SECMON_AUDIT_MAX_PAYLOAD_BYTES.",
        )
    if b"\\u0000" in encoded and _NUL_ESCAPE.search(encoded):
        raise EntryRefusedError(f"{field} contains the character U+0000; allowed: any other text")
    return encoded.decode()


def _is_simple(value: Any, depth: int) -> bool:
    """Whether orjson writes ``value`` as RFC 8785 wants it: keys sort alike if they are ASCII, and
    numbers look alike if they are safe integers, or fractions of common size."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER)
    if kind is float:
        return bool(1e-5 <= abs(value) < 1e15 and not value.is_integer())
    if depth > 16:
        return False
    if kind is dict:
        return all(
            type(key) is str and key.isascii() and _is_simple(item, depth + 1)
            for key, item in value.items()
        )
    return kind is list and all(_is_simple(item, depth + 1) for item in value)


def _plain(value: Any, path: str, depth: int) -> Any:
    """``value`` in plain JSON types by the table of the module."""
    if depth > MAX_DEPTH:
        raise EntryRefusedError(f"{path} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Enum):
        value = value.value
    # Who holds a numpy value has imported numpy; nobody else should wait for it.
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        number = float(value)
        if math.isnan(number):
            return "NaN"
        if math.isinf(number):
            return "Infinity" if number > 0 else "-Infinity"
        return number
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal | PurePath):
        return _text(str(value), path)
    if isinstance(value, Mapping):
        return {
            _key(key, path): _plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise EntryRefusedError(
        f"{path} is a {type(value).__name__}; allowed: JSON types, numpy numbers and arrays, "
        "dates, UUID, Decimal, Path and enum members"
    )


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise EntryRefusedError(
            f"{path} has the key {key!r} of type {type(key).__name__}; allowed: text"
        )
    return _text(key, path)


def _text(text: str, path: str) -> str:
    text = str(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EntryRefusedError(
            f"{path} contains a lone surrogate: {text[:40]!a}; allowed: valid Unicode"
        ) from None
    return text
