"""Byte ranges and entity tags (RFC 9110, sections 13 and 14), without I/O."""

from __future__ import annotations

import re

Span = tuple[int, int]
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class UnsatisfiableError(ValueError):
    """No byte of the range exists."""


def choose(header: str | None, size: int) -> Span | None:
    """The first and last byte asked for; None for the whole.

    A header that is not one valid range of bytes is ignored, as the RFC allows; so are several.

    Raises:
        UnsatisfiableError: a valid range outside the bytes.
    """
    found = None if header is None else _RANGE.fullmatch(header.replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        wanted = int(last)
        if wanted == 0 or size == 0:
            raise UnsatisfiableError
        return max(0, size - wanted), size - 1
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if last and int(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableError
    return start, end


def matches(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names ``etag`` (or is ``*``).

    Args:
        weak: compare weakly, as If-None-Match does; a strong comparison ignores weak tags.
    """
    if header.strip() == "*":
        return True
    tags = [tag.strip() for tag in header.split(",")]
    return etag in ([tag.removeprefix("W/") for tag in tags] if weak else tags)
