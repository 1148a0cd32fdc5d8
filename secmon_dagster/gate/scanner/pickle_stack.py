"""Stack, marks and memo of the symbolic pickle machine, with the C unpickler's underflow rules."""

from __future__ import annotations

from typing import Any

from .budget import Budget, UnreadableError
from .cursor import Cursor
from .pickle_values import Judge
from .source import Source

MEMO_SLACK = 1 << 16


class Stack(Cursor):
    """What opcodes work on. The fence is the last mark: nothing below it can be taken."""

    def __init__(self, source: Source, judge: Judge, budget: Budget) -> None:
        super().__init__(source)
        self._judge = judge
        self._budget = budget
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._frame_end: int | None = None

    def _fence(self, needed: int = 1) -> None:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - needed < floor:
            raise UnreadableError(f"the pickle takes from an empty stack at {self.offset}")

    def _pop(self) -> Any:
        self._fence()
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise UnreadableError(f"the pickle takes a mark that is not there at {self.offset}")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _drop_mark(self) -> None:
        self._pop_mark()

    def _put(self, index: int) -> None:
        self._fence()
        if index > len(self._memo) + MEMO_SLACK:
            # The C memo is an array: it would allocate 16 bytes for each index below this one.
            self._judge.suspicious("memo-bomb", f"the memo jumps to index {index}", self.offset)
        self._memo[index] = self._stack[-1]

    def _push_memo(self, index: int) -> None:
        if index not in self._memo:
            raise UnreadableError(f"memo index {index} was never set, at {self.offset}")
        self._stack.append(self._memo[index])

    def _straddle(self) -> None:
        self._judge.suspicious(
            "frame-straddle",
            "an opcode passes the end of its frame; unpicklers disagree on what follows",
            self.offset,
        )
