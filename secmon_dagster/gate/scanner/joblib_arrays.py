"""Raw arrays that joblib writes between the opcodes of a pickle.

After the BUILD of a ``NumpyArrayWrapper`` come, in the same file, an optional padding (one byte
with its length, then the padding) and the array's bytes; for arrays of objects a pickle instead.

Source: ``joblib/numpy_pickle.py``, ``NumpyArrayWrapper.read_array``.
"""

from __future__ import annotations

from typing import Any

from .budget import UnreadableError
from .dtypes import item_size
from .pickle_values import WRAPPER_MEMBERS, Global, Instance, Mapping
from .source import Source

WRAPPER = Global("joblib.numpy_pickle", "NumpyArrayWrapper")
_DTYPE = Global("numpy", "dtype")
_OBJECTS = 0x01  # NPY_ITEM_REFCOUNT in the flags of a dtype's state


def is_array_wrapper(instance: Instance) -> bool:
    """Whether joblib's unpickler would read array bytes after this object."""
    return instance.maker == WRAPPER


def array_extent(instance: Instance, source: Source, at: int) -> int | None:
    """Bytes from ``at`` to the end of the array, None for an array of objects.

    Raises:
        UnreadableError: the wrapper's state doesn't say how long the array is.
    """
    built = instance.state
    if not isinstance(built, Mapping) or built.odd or not WRAPPER_MEMBERS.issuperset(built.known):
        raise UnreadableError(f"an array wrapper with a state of another kind at {at}")
    state = built.known
    shape = state.get("shape")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnreadableError(f"an array without a shape at {at}")
    item = _item_size(state.get("dtype"))
    if item is None:
        return None
    count = 1
    for n in shape:
        count *= n
    aligned = state.get("numpy_array_alignment_bytes")
    if aligned is not None and not isinstance(aligned, int):
        raise UnreadableError(f"an array whose alignment is computed at {at}")
    padding = 0 if aligned is None else 1 + (source.read(at, 1) or b"\0")[0]
    return padding + count * item


def _item_size(dtype: Any) -> int | None:
    """Bytes of one item, None for objects. The code, the size and the flags in a dtype's state have
    to agree: NumPy believes one or the other, by kind."""
    if not isinstance(dtype, Instance) or dtype.maker != _DTYPE:
        raise UnreadableError("an array without a dtype")
    code = dtype.arguments[0] if isinstance(dtype.arguments, tuple) and dtype.arguments else None
    if not isinstance(code, str):
        raise UnreadableError("an array whose dtype is computed")
    try:
        size = item_size(code)
    except ValueError as unknown:
        raise UnreadableError(str(unknown)) from None
    if dtype.state is None:
        return size
    version, base, fields, stated, flags = _state(dtype.state)
    objects = size is None or _structure_holds_objects(base, fields)
    if version not in (3, 4) or (stated not in (-1, size) and size is not None):
        raise UnreadableError(f"the dtype {code} says {stated} bytes in its state")
    if objects != bool(flags & _OBJECTS):
        raise UnreadableError(f"the dtype {code} hides whether it holds objects")
    return None if objects else size


def _state(state: Any) -> tuple[int, Any, Any, int, int]:
    """Version, base, fields, item size and flags of a dtype's state."""
    if isinstance(state, tuple) and len(state) in (8, 9):
        version, base, fields, stated, flags = state[0], state[2], state[4], state[5], state[7]
        if all(isinstance(number, int) for number in (version, stated, flags)):
            return version, base, fields, stated, flags
    raise UnreadableError("a dtype with a state of another kind")


def _structure_holds_objects(base: Any, fields: Any) -> bool:
    parts = [base] if isinstance(base, tuple) else []
    if isinstance(fields, Mapping):
        parts += [part for part in fields.known.values() if isinstance(part, tuple)]
    return any(part and _item_size(part[0]) is None for part in parts)
