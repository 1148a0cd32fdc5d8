"""What the arguments of a call in a pickle stream may be: sizes, codecs, texts."""

from __future__ import annotations

import re
from typing import Any

from .pickle_values import OPAQUE, Global, Instance, may_be_text

MAX_ALLOCATION = 1 << 31
SAFE_CODECS = frozenset({"latin1", "latin-1", "utf-8", "utf8", "ascii"})
_ENDLESS = MAX_ALLOCATION + 1
_EXPONENT = re.compile(r"e[+-]?0*[1-9]\d{3,}", re.IGNORECASE)


def encodes_plainly(arguments: Any) -> bool:
    """Whether ``_codecs.encode`` is called with a codec that only writes text as bytes."""
    codec = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else "utf-8"
    return isinstance(codec, str) and codec.lower() in SAFE_CODECS


def allocation(arguments: Any) -> int:
    """The largest product of integers in a (nested) tuple; what a call returns counts by the
    arguments of that call, integers written as text by their value."""
    if isinstance(arguments, bool):
        return 1
    if isinstance(arguments, int):
        return abs(arguments)
    if isinstance(arguments, tuple):
        product, largest = 1, 0
        for item in arguments:
            if isinstance(item, int) and not isinstance(item, bool):
                product *= max(1, abs(item))
            else:
                largest = max(largest, allocation(item))
        return max(product, largest)
    if isinstance(arguments, Instance) and arguments.maker is not None:
        return _of_call(arguments.maker, arguments.arguments)
    return 0


def _of_call(maker: Global, arguments: Any) -> int:
    if maker.name == "range":
        return allocation(arguments)
    if maker.name not in ("int", "float", "Decimal", "Fraction") or not isinstance(
        arguments, tuple
    ):
        return 0
    first = arguments[0] if arguments else 0
    if first is OPAQUE or (isinstance(first, str) and len(first) > 9):
        return _ENDLESS
    return abs(int(first)) if isinstance(first, str) and first.isdecimal() else allocation(first)


def is_endless_number(callee: Global, arguments: Any) -> bool:
    """Whether a few letters become millions of digits (``int(Decimal('1e9999999'))``)."""
    if not isinstance(arguments, tuple):
        return False
    if callee == Global("fractions", "Fraction"):
        return any(isinstance(item, str) and _EXPONENT.search(item) for item in arguments)
    made = {item.maker for item in arguments if isinstance(item, Instance)}
    takes = (Global("builtins", "int"), Global("fractions", "Fraction"))
    return callee in takes and Global("decimal", "Decimal") in made


def holds_text(arguments: Any) -> bool:
    """Whether there may be a text among arguments, however deep in tuples."""
    if isinstance(arguments, tuple):
        return any(holds_text(item) for item in arguments)
    return may_be_text(arguments)


def is_plain(arguments: Any) -> bool:
    """Whether arguments hold no text that could be a command, a path or an address."""
    if isinstance(arguments, str):
        return all(letter.isalnum() or letter in "_-" for letter in arguments)
    if isinstance(arguments, tuple):
        return all(is_plain(item) for item in arguments)
    if isinstance(arguments, Instance) and arguments.maker == Global("builtins", "str"):
        return is_plain(arguments.arguments)
    return True
