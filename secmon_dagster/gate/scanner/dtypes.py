"""Item sizes of NumPy type codes as they stand in pickles and array headers (``<f8``, ``|S12``)."""

from __future__ import annotations

import re

_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQefdgFDGcSaUVMmOTu])(\d*)(?:\[[\w/]+\])?")
_BARE = {"?": 1, "b": 1, "B": 1, "c": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "d": 8}


def item_size(code: str) -> int | None:
    """Bytes of one item, None for objects.

    Raises:
        ValueError: no such type, or one whose size depends on the platform.
    """
    match = _CODE.fullmatch(code)
    if match is None:
        raise ValueError(f"no array type is {code!r}")
    kind, digits = match.groups()
    if kind in "OT":
        return None
    if digits:
        return int(digits) * (4 if kind == "U" else 1)
    if kind not in _BARE:
        raise ValueError(f"no size in the array type {code!r}")
    return _BARE[kind]
