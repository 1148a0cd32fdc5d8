"""NumPy's ``.npy``: the header says type and shape; arrays of objects are a pickle.

Source: ``numpy/lib/_format_impl.py``.
"""

from __future__ import annotations

import ast
import struct
from typing import Any

from .context import Scan
from .dtypes import item_size
from .pickles import scan_pickle
from .source import Part, Source

MAX_HEADER = 1 << 20


def scan_npy(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge one array file."""
    scan.report.saw_format("npy")
    head = source.read(0, 12)
    major = head[6] if len(head) > 6 else 0
    if major not in (1, 2, 3) or len(head) < 12:
        scan.report.block("npy-header", f"no npy version is {major}", where)
        return
    form, start = ("<H", 10) if major == 1 else ("<I", 12)
    (length,) = struct.unpack_from(form, head, 8)
    text = source.read(start, min(length, MAX_HEADER))
    if len(text) < length:
        scan.report.block("npy-header", f"a header of {length} bytes is not there", where)
        return
    try:
        header = ast.literal_eval(text.decode("utf-8" if major == 3 else "latin-1").strip())
        size = _size(header)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as broken:
        scan.report.block("npy-header", f"the header can't be read: {broken}", where)
        return
    data = start + length
    if size is None:
        end = scan_pickle(scan, source, where, start=data)
    else:
        end = data + size
        if end > source.size:
            scan.report.block(
                "npy-size", f"promises {size} bytes, {source.size - data} are there", where
            )
            return
    if end < source.size:
        scan.report.warn("trailing-data", f"{source.size - end} bytes follow the array", where)
        scan.nested(Part(source, end, source.size - end), f"{where}!trailing", probing=True)


def _size(header: Any) -> int | None:
    """Bytes of the array, None for objects."""
    if set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError("not the three members descr, fortran_order and shape")
    count = 1
    for n in header["shape"]:
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"no shape is {header['shape']!r}")
        count *= n
    item = _item(header["descr"])
    return None if item is None else count * item


def _item(descr: Any) -> int | None:
    """Bytes of one item, None if there are objects in it."""
    if isinstance(descr, str):
        return item_size(descr)
    if isinstance(descr, tuple):
        base, shape = descr
        item = _item(base)
        for n in (shape,) if isinstance(shape, int) else shape:
            item = None if item is None else item * int(n)
        return item
    total = 0
    for field in descr:
        item = _item(tuple(field[1:3]) if len(field) == 3 else field[1])
        if item is None:
            return None
        total += item
    return total
