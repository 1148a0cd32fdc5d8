"""safetensors: a JSON header that must describe exactly the bytes that follow.

Source: the format's README (header length as u64, then JSON, then the buffer without holes).
"""

from __future__ import annotations

import json
from typing import Any

from .context import Scan
from .source import Part, Source
from .targets import judge_targets

MAX_HEADER = 100_000_000
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


def scan_safetensors(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge the header: lengths, members, offsets."""
    scan.report.saw_format("safetensors")
    length = int.from_bytes(source.read(0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER, source.size - 8):
        scan.report.block(
            "safetensors-header", f"a header of {length} bytes in {source.size}", where
        )
        return
    try:
        header = json.loads(source.read(8, length), object_pairs_hook=_once)
        for text in header.get("__metadata__", {}).values():
            judge_targets(scan, str(text), where)
        end = _extent(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
        scan.report.block("safetensors-header", f"the header can't be read: {broken}", where)
        return
    buffer = source.size - 8 - length
    if end != buffer:
        scan.report.block("safetensors-size", f"promises {end} bytes, holds {buffer}", where)
        if end < buffer:
            rest = Part(source, 8 + length + end, buffer - end)
            scan.nested(rest, f"{where}!trailing", probing=True)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made


def _extent(header: dict[str, Any]) -> int:
    """Where the last tensor ends, if they lie end to end."""
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("metadata that is not text")
    spans = []
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        bits = BITS[tensor["dtype"]]
        for n in tensor["shape"]:
            if not isinstance(n, int) or n < 0:
                raise ValueError(f"the shape of {name}")
            bits *= n
        if (end - begin) * 8 != bits:
            raise ValueError(f"{name} has {end - begin} bytes, its shape needs {bits // 8}")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f"bytes {at} to {begin} belong to no tensor or to two")
        at = end
    return at
