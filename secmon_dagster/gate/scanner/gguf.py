"""GGUF: key-value metadata before the tensors; chat templates are among the values.

Source: ``ggml/docs/gguf.md``.
"""

from __future__ import annotations

import struct

from .budget import UnreadableError
from .context import Scan
from .cursor import Cursor
from .source import Source
from .templates import judge_template

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
MAX_COUNT = 10_000_000


class _Reader(Cursor):
    def number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def text(self) -> str:
        length = self.number("<Q")
        if length > min(self._source.size, 64 << 20):
            raise UnreadableError(f"a text of {length} bytes at {self.offset}")
        return self._take(length).decode("utf-8", "replace")

    def skip(self, length: int) -> None:
        self._skip(length)


def scan_gguf(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge the metadata: counts, lengths, templates."""
    scan.report.saw_format("gguf")
    reader = _Reader(source, 4)
    version = reader.number("<I")
    if version not in (2, 3):
        raise UnreadableError(f"GGUF version {version}")
    tensors, pairs = reader.number("<Q"), reader.number("<Q")
    if tensors > MAX_COUNT or pairs > MAX_COUNT:
        raise UnreadableError(f"{tensors} tensors and {pairs} metadata values")
    for _ in range(pairs):
        scan.budget.spend_opcodes(1)
        key = reader.text()
        _value(scan, reader, reader.number("<I"), key, f"{where}!{key}")


def _value(scan: Scan, reader: _Reader, kind: int, key: str, where: str) -> None:
    if kind == STRING:
        text = reader.text()
        if "template" in key or "{%" in text or "{{" in text:
            judge_template(scan, text, where)
    elif kind == ARRAY:
        item, count = reader.number("<I"), reader.number("<Q")
        if item in _SIZES:
            reader.skip(count * _SIZES[item])
            return
        if count > MAX_COUNT or item != STRING:
            raise UnreadableError(f"an array of {count} values of type {item}")
        for index in range(count):
            if not index & 0xFFF:
                scan.budget.spend_opcodes(0x1000)
            text = reader.text()
            if "template" in key:
                judge_template(scan, text, where)
    elif kind in _SIZES:
        reader.skip(_SIZES[kind])
    else:
        raise UnreadableError(f"no GGUF type is {kind}")
