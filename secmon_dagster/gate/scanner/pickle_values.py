"""What the symbolic pickle machine knows of values, and who judges what a stream does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .imports import is_class_name
from .source import Source

KEPT_ITEMS = 512
# Keys that rules look for; they are kept however many others a mapping has.
HOOKS = frozenset(
    {"__setstate__", "__class__", "__dict__", "__reduce__", "__reduce_ex__", "__getstate__"}
)
WRAPPER_MEMBERS = frozenset(
    {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
)
WATCHED = HOOKS | WRAPPER_MEMBERS


@dataclass(frozen=True)
class Global:
    """An import, by its resolved name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Instance:
    """What a call returned: its callee (None where unknown), arguments and, later, state."""

    __slots__ = ("arguments", "maker", "state")

    def __init__(self, maker: Global | None, arguments: Any = ()) -> None:
        self.maker = maker
        self.arguments = arguments
        self.state: Any = None


class Mapping:
    """A dict, as far as its text keys are concerned. ``odd`` where it has others, ``computed``
    where one of those may be equal to any text."""

    __slots__ = ("computed", "known", "odd")

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.odd = False
        self.computed = False

    def fill(self, items: list[Any]) -> None:
        """Take alternating keys and values: :data:`KEPT_ITEMS`, and all that are watched."""
        known = self.known
        for key, value in zip(items[::2], items[1::2], strict=False):
            if not isinstance(key, str):
                self.odd = True
                self.computed |= isinstance(key, Instance) and may_be_text(key)
            elif len(known) < KEPT_ITEMS or key in WATCHED:
                known[key] = value


class Opaque:
    """A value no rule looks into."""


OPAQUE: Final = Opaque()
NATIVE: Final = Opaque()  # a list or a set


def may_be_text(value: Any) -> bool:
    """Whether a value could be a text that names something: a known one, or the result of a call of
    a function or of ``str``. What classes make is none, and a text too long to be kept no name."""
    if isinstance(value, Instance):
        maker = value.maker
        return value.state is None and (maker is None or not is_class_name(maker.name))
    return isinstance(value, str)


class Judge(Protocol):
    """Who hears what a stream does. ``confined`` once it named an import that may be called at
    its place and be nowhere else."""

    confined: bool

    def contained(self, items: Iterable[Any], at: int) -> None: ...
    def imported(self, module: str, name: str, protocol: int, at: int) -> Global: ...
    def suspicious(self, rule: str, message: str, at: int) -> None: ...
    def called(self, callee: Any, arguments: Any, at: int, *, constructor: bool) -> Any: ...
    def built(self, target: Any, state: Any, at: int) -> None: ...
    def blob(self, source: Source, start: int, length: int) -> None: ...
    def persistent(self, identity: Any, at: int) -> Any: ...
    def raw_array(self, instance: Any, at: int) -> int | None: ...
    def read_plainly(self, at: int) -> Judge | None: ...
    def settle(self, trial: Judge) -> None: ...
