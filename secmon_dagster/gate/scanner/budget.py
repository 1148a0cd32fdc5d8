"""Bounds of one scan: seconds, inflated bytes, members, depth, opcodes.

A file that can't be read within its budget is blocked: what was not read was not judged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class OverBudgetError(Exception):
    """The file needs more than the scan may spend; the message says of what."""


class UnreadableError(Exception):
    """The bytes are not what the format promises; the message says where."""


@dataclass
class Budget:
    """What a scan may still spend. Sizes in bytes, time in seconds."""

    seconds: float = 60.0
    inflated_bytes: int = 8 << 30
    ratio: int = 1100
    members: int = 20_000
    depth: int = 8
    opcodes: int = 50_000_000
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.seconds

    def check_time(self) -> None:
        """Raise when the time is over."""
        if time.monotonic() > self.deadline:
            raise OverBudgetError(f"not read to the end within {self.seconds:g} s")

    def spend_inflated(self, count: int) -> None:
        """Take ``count`` bytes of decompressed output from the budget."""
        self.inflated_bytes -= count
        if self.inflated_bytes < 0:
            raise OverBudgetError("inflates to more bytes than a scan may read")
        self.check_time()

    def spend_member(self) -> None:
        """Take one archive member from the budget."""
        self.members -= 1
        if self.members < 0:
            raise OverBudgetError("holds more members than a scan may read")

    def spend_opcodes(self, count: int) -> None:
        """Take pickle opcodes from the budget."""
        self.opcodes -= count
        if self.opcodes < 0:
            raise OverBudgetError("holds more pickle opcodes than a scan may read")
        self.check_time()
