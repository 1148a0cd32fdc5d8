"""What the symbolic pickle machine knows of values, and who judges what a stream does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from .source import Source

KEPT_ITEMS = 512


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
    """A dict, as far as its text keys are concerned."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def fill(self, items: list[Any]) -> None:
        """Take alternating keys and values, at most :data:`KEPT_ITEMS` of them."""
        if len(self.known) < KEPT_ITEMS:
            for key, value in zip(items[:KEPT_ITEMS:2], items[1:KEPT_ITEMS:2], strict=False):
                if isinstance(key, str):
                    self.known[key] = value


class Opaque:
    """A value no rule looks into."""


OPAQUE: Final = Opaque()
NATIVE: Final = Opaque()  # a list or a set


class Judge(Protocol):
    """Who hears what a stream does."""

    def imported(self, module: str, name: str, protocol: int, at: int) -> Global: ...
    def suspicious(self, rule: str, message: str, at: int) -> None: ...
    def called(self, callee: Any, arguments: Any, at: int, *, constructor: bool) -> Instance: ...
    def built(self, target: Any, state: Any, at: int) -> None: ...
    def blob(self, source: Source, start: int, length: int) -> None: ...
    def persistent(self, identity: Any, at: int) -> Any: ...
    def raw_array(self, instance: Any, at: int) -> int: ...
