"""A symbolic pickle machine that walks a stream exactly as CPython's C unpickler does.

It keeps the stack and the memo, but of values only what a rule needs: strings, integers, tuples,
imports (:class:`Global`) and what was made by calling one (:class:`Instance`). Nothing is
imported, called or allocated. Each import, call and state change goes to a :class:`Judge`.

Source: ``Modules/_pickle.c`` (``load_*``) of CPython 3.11–3.13, PEP 3154 and PEP 574.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .budget import UnreadableError
from .pickle_stack import Stack
from .pickle_values import NATIVE, OPAQUE, Global, Instance, Mapping, may_be_text

KEPT_TEXT = 4096


class Machine(Stack):
    """One run over one stream: :meth:`run` returns the offset after STOP."""

    def run(self, start: int) -> int:
        """Walk the stream that begins at ``start``.

        Returns:
            The offset of the first byte after STOP.

        Raises:
            UnreadableError: the C unpickler would fail here.
            OverBudgetError: too many opcodes or too much time.
        """
        self._base, self._window, self._at = start, b"", 0
        try:
            return self._walk()
        except (UnicodeError, struct.error) as broken:
            raise UnreadableError(f"{broken}, before {self.offset}") from None

    def _walk(self) -> int:
        stack, memo = self._stack, self._memo
        handlers = _HANDLERS
        count = 0
        while True:
            at = self._at
            if at + 16 > len(self._window):
                self._refill()
                at = 0
            window = self._window
            if at >= len(window):
                raise UnreadableError(f"the pickle ends without STOP at {self.offset}")
            opcode = window[at]
            self._at = at + 1
            count += 1
            if not count & 0x3FFF:
                self._budget.spend_opcodes(0x4000)
            # The frequent opcodes in line; each does what its handler below would do.
            if opcode == 0x94:  # MEMOIZE
                self._fence()
                memo[len(memo)] = stack[-1]
            elif opcode == 0x71:  # BINPUT
                self._put(self._byte())
            elif opcode == 0x68:  # BINGET
                self._push_memo(self._byte())
            elif opcode == 0x4B:  # BININT1
                stack.append(self._byte())
            elif opcode == 0x47:  # BINFLOAT
                self._skip(8)
                stack.append(OPAQUE)
            elif opcode == 0x2E:  # STOP
                self._fence()
                if self._frame_end is not None and self.offset > self._frame_end:
                    self._straddle()
                return self.offset
            else:
                handler = handlers[opcode]
                if handler is None:
                    raise UnreadableError(f"no pickle opcode is {opcode:#04x} at {self.offset - 1}")
                handler(self)
            end = self._frame_end
            if end is not None:
                here = self._base + self._at
                if here >= end:
                    if here > end:
                        self._straddle()
                    self._frame_end = None

    # --- opcodes ----------------------------------------------------------------------------------

    def _op_proto(self) -> None:
        protocol = self._byte()
        if protocol > 5:
            raise UnreadableError(f"pickle protocol {protocol} at {self.offset}")
        self._protocol = protocol

    def _op_frame(self) -> None:
        length = self._length("<Q")
        if self._frame_end is not None:
            self._judge.suspicious("frame-nested", "a frame begins inside a frame", self.offset)
        if self.offset + length > self._source.size:
            raise UnreadableError(f"a frame of {length} bytes at {self.offset} is cut off")
        self._frame_end = self.offset + length

    def _op_mark(self) -> None:
        self._marks.append(len(self._stack))

    def _op_pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _op_dup(self) -> None:
        self._fence()
        self._stack.append(self._stack[-1])

    def _op_int(self) -> None:
        line = self._line().strip()
        try:
            self._stack.append(int(line.removesuffix(b"L"), 10))
        except ValueError:
            raise UnreadableError(f"no integer is {line[:20]!r} at {self.offset}") from None

    def _op_long(self, form: str) -> None:
        length = self._length(form)
        if length <= 16:
            self._stack.append(int.from_bytes(self._take(length), "little", signed=True))
        else:
            self._skip(length)
            self._stack.append(OPAQUE)

    def _op_text(self, form: str, *, text: bool = True) -> None:
        length = self._length(form)
        start = self.offset
        if length <= KEPT_TEXT and text:
            data = self._take(length)
            self._stack.append(data.decode("utf-8", "surrogatepass"))
            if data[-1:] == b".":
                self._judge.blob(self._source, start, length)
        else:
            self._skip(length)
            self._stack.append(OPAQUE)
            if length > 8:
                self._judge.blob(self._source, start, length)

    def _op_old_string(self, form: str) -> None:
        # Python 2 strings become str by default (latin-1 keeps every byte visible to the rules).
        length = self._length(form)
        start = self.offset
        if length <= KEPT_TEXT:
            self._stack.append(self._take(length).decode("latin-1"))
        else:
            self._skip(length)
            self._stack.append(OPAQUE)
        if length > 8:
            self._judge.blob(self._source, start, length)

    def _op_quoted(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise UnreadableError(f"a string without quotes at {self.offset}")
        # The escapes of a bytes literal, not of a text: \557 is the letter o, \u006f six letters.
        try:
            value, _ = codecs.escape_decode(line[1:-1])
        except ValueError as broken:
            raise UnreadableError(f"{broken}, before {self.offset}") from None
        self._stack.append(value.decode("latin-1"))

    def _op_unicode(self) -> None:
        self._stack.append(self._line().decode("raw_unicode_escape", "replace"))

    def _op_tuple(self) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _op_tuple_of(self, count: int) -> None:
        self._fence(count)
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def _op_native_of_mark(self) -> None:
        self._check_contained(self._pop_mark())
        self._stack.append(NATIVE)

    def _op_dict(self) -> None:
        made, items = Mapping(), self._pop_mark()
        self._check_contained(items)
        made.fill(items)
        self._stack.append(made)

    def _op_empty_dict(self) -> None:
        self._stack.append(Mapping())

    def _op_extend(self) -> None:
        self._fill_top(self._pop_mark())

    def _op_append(self, count: int = 1) -> None:
        self._fence(count + 1)
        items = self._stack[-count:]
        del self._stack[-count:]
        self._fill_top(items)

    def _check_contained(self, items: list[Any]) -> None:
        if self._judge.confined:
            self._judge.contained(items, self.offset)

    def _fill_top(self, items: list[Any]) -> None:
        self._fence()
        self._check_contained(items)
        target = self._stack[-1]
        if isinstance(target, Mapping):
            target.fill(items)
        elif isinstance(target, Global):
            self._judge.suspicious(
                "import-changed", f"items are put into the import {target}", self.offset
            )
        elif isinstance(target, Instance) and target.maker and target.maker.module[:6] == "pandas":
            # A frame calls the key it is given, if that can be called; no frame is restored so.
            self._judge.suspicious(
                "frame-changed", f"items are put into {target.maker}", self.offset
            )

    def _op_global(self) -> None:
        module, name = self._text_line(), self._text_line()
        self._stack.append(self._judge.imported(module, name, self._protocol, self.offset))

    def _op_stack_global(self) -> None:
        self._fence(2)
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            if not (may_be_text(name) and may_be_text(module)):
                raise UnreadableError(f"an import by something else than names at {self.offset}")
            self._judge.suspicious(
                "computed-import", "an import whose name is computed", self.offset
            )
            self._stack.append(Instance(None))
            return
        self._stack.append(self._judge.imported(module, name, self._protocol, self.offset))

    def _op_extension(self, form: str) -> None:
        code = self._length(form)
        self._judge.suspicious(
            "extension-import", f"an import through extension code {code}", self.offset
        )
        self._stack.append(Instance(None))

    def _op_reduce(self) -> None:
        self._fence(2)
        arguments, callee = self._stack.pop(), self._stack.pop()
        self._stack.append(self._judge.called(callee, arguments, self.offset, constructor=True))

    def _op_new(self, *, keywords: bool = False) -> None:
        self._fence(3 if keywords else 2)
        if keywords:
            self._stack.pop()
        arguments, callee = self._stack.pop(), self._stack.pop()
        self._stack.append(self._judge.called(callee, arguments, self.offset, constructor=False))

    def _op_instance(self) -> None:
        module, name = self._text_line(), self._text_line()
        callee = self._judge.imported(module, name, self._protocol, self.offset)
        arguments = tuple(self._pop_mark())
        self._stack.append(self._judge.called(callee, arguments, self.offset, constructor=True))

    def _op_object(self) -> None:
        items = self._pop_mark()
        if not items:
            raise UnreadableError(f"an object without a class at {self.offset}")
        made = self._judge.called(items[0], tuple(items[1:]), self.offset, constructor=True)
        self._stack.append(made)

    def _op_build(self) -> None:
        self._fence(2)
        state = self._stack.pop()
        target = self._stack[-1]
        self._judge.built(target, state, self.offset)
        length = self._judge.raw_array(target, self.offset)
        if length is not None:
            self._read_plainly()
            # joblib reads the array from the file, past the frame it has buffered, and puts it in
            # the place of its wrapper.
            if length and self._frame_end not in (None, self.offset):
                self._straddle()
            self._frame_end = None
            self._skip(length)
            self._stack[-1] = OPAQUE

    def _read_plainly(self) -> None:
        """Go on as an unpickler does that knows nothing of joblib: to it the array is opcodes."""
        first = self._source.read(self.offset, 1)
        if not first or (_HANDLERS[first[0]] is None and first != b"."):
            return
        trial = self._judge.read_plainly(self.offset)
        if trial is None:
            return
        self._budget.spend_opcodes(len(self._memo) // 8)
        twin = Machine(self._source, trial, self._budget)
        twin._stack, twin._marks = self._stack.copy(), self._marks.copy()
        twin._memo, twin._protocol = self._memo.copy(), self._protocol
        with suppress(UnreadableError):
            twin.run(self.offset)
        self._judge.settle(trial)

    def _op_persistent(self, *, line: bool) -> None:
        identity = self._text_line() if line else self._pop()
        self._stack.append(self._judge.persistent(identity, self.offset))

    def _op_out_of_band(self) -> None:
        self._judge.suspicious(
            "out-of-band", "a buffer that is not in the file is asked for", self.offset
        )
        self._stack.append(OPAQUE)

    def _op_readonly(self) -> None:
        self._fence()


def _push(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine._stack.append(value)


def _line_and_push(machine: Machine) -> None:
    machine._line()
    machine._stack.append(OPAQUE)


def _integer(form: str) -> Callable[[Machine], None]:
    size = struct.calcsize(form)
    return lambda machine: machine._stack.append(struct.unpack(form, machine._take(size))[0])


_BY_OPCODE: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine._op_proto,
    b"\x95": Machine._op_frame,
    b"(": Machine._op_mark,
    b"0": Machine._op_pop,
    b"1": lambda m: m._drop_mark(),
    b"2": Machine._op_dup,
    b"I": Machine._op_int,
    b"L": Machine._op_int,
    b"J": _integer("<i"),
    b"M": _integer("<H"),
    b"\x8a": lambda m: m._op_long("<B"),
    b"\x8b": lambda m: m._op_long("<i"),
    b"F": _line_and_push,
    b"S": Machine._op_quoted,
    b"T": lambda m: m._op_old_string("<i"),
    b"U": lambda m: m._op_old_string("<B"),
    b"V": Machine._op_unicode,
    b"X": lambda m: m._op_text("<I"),
    b"\x8c": lambda m: m._op_text("<B"),
    b"\x8d": lambda m: m._op_text("<Q"),
    b"B": lambda m: m._op_text("<I", text=False),
    b"C": lambda m: m._op_text("<B", text=False),
    b"\x8e": lambda m: m._op_text("<Q", text=False),
    b"\x96": lambda m: m._op_text("<Q", text=False),
    b"\x97": Machine._op_out_of_band,
    b"\x98": Machine._op_readonly,
    b"N": _push(None),
    b"\x88": _push(OPAQUE),
    b"\x89": _push(OPAQUE),
    b"]": _push(NATIVE),
    b"}": Machine._op_empty_dict,
    b"\x8f": _push(NATIVE),
    b")": _push(()),
    b"t": Machine._op_tuple,
    b"\x85": lambda m: m._op_tuple_of(1),
    b"\x86": lambda m: m._op_tuple_of(2),
    b"\x87": lambda m: m._op_tuple_of(3),
    b"l": Machine._op_native_of_mark,
    b"d": Machine._op_dict,
    b"\x91": Machine._op_native_of_mark,
    b"a": Machine._op_append,
    b"s": lambda m: m._op_append(2),
    b"e": Machine._op_extend,
    b"u": Machine._op_extend,
    b"\x90": Machine._op_extend,
    b"p": lambda m: m._put(m._index_line()),
    b"r": lambda m: m._put(m._length("<I")),
    b"g": lambda m: m._push_memo(m._index_line()),
    b"j": lambda m: m._push_memo(m._length("<I")),
    b"c": Machine._op_global,
    b"\x93": Machine._op_stack_global,
    b"\x82": lambda m: m._op_extension("<B"),
    b"\x83": lambda m: m._op_extension("<H"),
    b"\x84": lambda m: m._op_extension("<i"),
    b"R": Machine._op_reduce,
    b"\x81": Machine._op_new,
    b"\x92": lambda m: m._op_new(keywords=True),
    b"i": Machine._op_instance,
    b"o": Machine._op_object,
    b"b": Machine._op_build,
    b"P": lambda m: m._op_persistent(line=True),
    b"Q": lambda m: m._op_persistent(line=False),
}
_HANDLERS: list[Callable[[Machine], None] | None] = [
    _BY_OPCODE.get(bytes([code])) for code in range(256)
]
