"""Raw arrays that joblib writes between the opcodes of a pickle.

After the BUILD of a ``NumpyArrayWrapper`` come, in the same file, an optional padding (one byte
with its length, then the padding) and the array's bytes; for arrays of objects a pickle instead.

Source: ``joblib/numpy_pickle.py``, ``NumpyArrayWrapper.read_array``.
"""

from __future__ import annotations

from typing import Any

from .budget import UnreadableError
from .dtypes import item_size
from .pickle_values import Global, Instance, Mapping
from .source import Source

_WRAPPER = Global("joblib.numpy_pickle", "NumpyArrayWrapper")
_OBJECTS = 0x01  # NPY_ITEM_REFCOUNT in the flags of a dtype's state


def is_array_wrapper(instance: Instance) -> bool:
    """Whether joblib's unpickler would read array bytes after this object."""
    return instance.maker == _WRAPPER


def array_extent(instance: Instance, source: Source, at: int) -> int | None:
    """Bytes from ``at`` to the end of the array, None for an array of objects.

    Raises:
        UnreadableError: the wrapper's state doesn't say how long the array is.
    """
    state = instance.state.known if isinstance(instance.state, Mapping) else {}
    shape = state.get("shape")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnreadableError(f"an array without a shape at {at}")
    item = _item_size(state.get("dtype"))
    if item is None:
        return None
    count = 1
    for n in shape:
        count *= n
    padding = 0
    if state.get("numpy_array_alignment_bytes") is not None:
        padding = 1 + (source.read(at, 1) or b"\0")[0]
    return padding + count * item


def _item_size(dtype: Any) -> int | None:
    """Bytes of one item, None for objects."""
    if isinstance(dtype, Global):
        raise UnreadableError(f"an array of {dtype} has no known item size")
    if not isinstance(dtype, Instance) or not isinstance(dtype.arguments, tuple):
        raise UnreadableError("an array without a dtype")
    code = dtype.arguments[0] if dtype.arguments else None
    if not isinstance(code, str):
        raise UnreadableError("an array whose dtype is computed")
    if _holds_objects(dtype.state):
        return None
    try:
        return item_size(code)
    except ValueError as unknown:
        raise UnreadableError(str(unknown)) from None


def _holds_objects(state: Any) -> bool:
    if not isinstance(state, tuple) or len(state) < 8:
        return False
    if isinstance(state[7], int) and state[7] & _OBJECTS:
        return True
    base = state[2]
    if isinstance(base, tuple) and base and isinstance(base[0], Instance):
        return _item_size(base[0]) is None
    fields = state[4]
    if not isinstance(fields, Mapping):
        return False
    kinds = [part[0] for part in fields.known.values() if isinstance(part, tuple) and part]
    return any(isinstance(kind, Instance) and _item_size(kind) is None for kind in kinds)
