"""Inflate compressed bytes within bounds: streams on their own and members of archives."""

from __future__ import annotations

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

from .budget import Budget, OverBudgetError, UnreadableError
from .source import Source, Spool

IN_MEMORY = 32 << 20
CHUNK = 1 << 18
BOMB_SIZE = 32 << 20
BOMB_RATIO = 100

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "deflate": lambda: zlib.decompressobj(-15),
    "zlib": lambda: zlib.decompressobj(15),
    "gzip": lambda: zlib.decompressobj(31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20),
}


def inflate(source: Source, kind: str, budget: Budget, *, single: bool = False) -> Spool:
    """The inflated bytes of ``source``; concatenated streams are read on, as their loaders do.

    Raises:
        UnreadableError: not a whole stream of this kind.
        OverBudgetError: too many bytes, or a ratio only a bomb has.
    """
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the Spool keeps it
    make = DECOMPRESSORS[kind]
    engine, pending, offset, size = make(), b"", 0, 0
    try:
        while True:
            if not pending and getattr(engine, "needs_input", True):
                pending = source.read(offset, CHUNK)
                offset += len(pending)
                if not pending:
                    raise UnreadableError(f"a {kind} stream is cut off")
            piece, pending = _step(engine, pending)
            size += len(piece)
            budget.spend_inflated(len(piece))
            if size > BOMB_SIZE and size > BOMB_RATIO * max(1, offset):
                raise OverBudgetError(f"inflates more than {BOMB_RATIO} times ({kind})")
            file.write(piece)
            if engine.eof:
                rest = engine.unused_data or source.read(offset, CHUNK)
                offset = offset if engine.unused_data else offset + len(rest)
                if single or not rest.strip(b"\0"):
                    break
                engine, pending = make(), rest
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as broken:
        raise UnreadableError(f"a broken {kind} stream: {broken}") from None
    return Spool(file, size)


def _step(engine: Any, pending: bytes) -> tuple[bytes, bytes]:
    """At most 1 MiB of output, and the input that is still to be fed."""
    piece = engine.decompress(pending, 1 << 20)
    return piece, getattr(engine, "unconsumed_tail", b"")
