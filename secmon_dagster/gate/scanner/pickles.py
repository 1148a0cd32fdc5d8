"""Rules for pickle streams: which imports, calls and state changes a file may make.

The induction behind it: if each import on the allow-list is harmless for any arguments and any
state, so is every program built of them. What would leave the allow-list (a computed import, a
call of anything but an import, a change to an import) blocks by itself.
"""

from __future__ import annotations

import sys
from typing import Any

from .budget import OverBudgetError, UnreadableError
from .context import Scan
from .imports import Standing, python3_name
from .joblib_arrays import array_extent, is_array_wrapper
from .pickle_machine import Machine
from .pickle_values import OPAQUE, Global, Instance, Mapping
from .source import Bytes, Part, Source

MAX_ALLOCATION = 1 << 31
SAFE_CODECS = frozenset({"latin1", "latin-1", "utf-8", "utf8", "ascii"})
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HOOKS = ("__setstate__", "__class__", "__dict__", "__reduce__", "__reduce_ex__", "__getstate__")


class PickleRules:
    """The judge of one pickle stream. ``torch`` allows torch's persistent storages."""

    def __init__(self, scan: Scan, source: Source, where: str, *, torch: bool = False) -> None:
        self._scan = scan
        self._source = source
        self._where = where
        self._torch = torch
        self.imports = 0
        self.refused = 0

    def _place(self, at: int) -> str:
        return f"{self._where}@{at}"

    def suspicious(self, rule: str, message: str, at: int) -> None:
        self.refused += 1
        self._scan.report.block(rule, message, self._place(at))

    def imported(self, module: str, name: str, protocol: int, at: int) -> Global:
        if protocol < 3:
            module, name = python3_name(module, name)
        found = Global(module, name)
        self.imports += 1
        self._scan.report.imports.add(str(found))
        judgement = self._scan.policy.judge(module, name)
        if judgement.standing is Standing.REFUSED:
            self.refused += 1
            self._scan.report.block(
                "import", f"{found} {judgement.reason}", self._place(at), str(found)
            )
        elif judgement.standing is Standing.UNKNOWN:
            self._scan.report.warn(
                "unknown-class", f"{found} {judgement.reason}", self._place(at), str(found)
            )
        return found

    def called(self, callee: Any, arguments: Any, at: int, *, constructor: bool) -> Instance:
        if not isinstance(callee, Global):
            self.suspicious("computed-call", "something other than an import is called", at)
            return Instance(None)
        if constructor and not isinstance(arguments, tuple | Instance):
            raise UnreadableError(f"{callee} is called without a tuple of arguments at {at}")
        self._check_arguments(callee, arguments, at, constructor=constructor)
        return Instance(callee, arguments)

    def _check_arguments(
        self, callee: Global, arguments: Any, at: int, *, constructor: bool
    ) -> None:
        key = (callee.module, callee.name)
        if key == ("_codecs", "encode"):
            codec = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else "utf-8"
            content = arguments[0] if isinstance(arguments, tuple) and arguments else None
            if isinstance(content, str):
                data = content.encode("latin-1", "replace")
                self.blob(Bytes(data), 0, len(data))
            if not isinstance(codec, str) or codec.lower() not in SAFE_CODECS:
                self.suspicious("codec", "_codecs.encode with a codec that is not plain text", at)
        if key in self._scan.policy.allocates and _allocation(arguments) > MAX_ALLOCATION:
            self.suspicious("memory-bomb", f"{callee} is asked for more than 2 GiB", at)
        if (
            constructor
            and self._scan.policy.judge(*key).standing is Standing.UNKNOWN
            and not _plain(arguments)
        ):
            self.suspicious(
                "unknown-constructor",
                f"{callee}, which nobody vetted, is called with text chosen by the file",
                at,
            )

    def built(self, target: Any, state: Any, at: int) -> None:
        if isinstance(target, Global):
            self.suspicious("import-changed", f"the state of the import {target} is changed", at)
        elif isinstance(target, Instance):
            target.state = state
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, Mapping) and any(hook in part.known for hook in HOOKS):
                    self.suspicious("hook", "state replaces a method the unpickler calls", at)

    def blob(self, source: Source, start: int, length: int) -> None:
        if length < 8 or self._scan.depth_left <= 0:
            return
        if source.read(start + length - 1, 1) != b".":
            return
        if source.read(start, 1) in (b"\x80", b"c", b"("):
            probe_pickle(self._scan.deeper(), Part(source, start, length), self._place(start))

    def persistent(self, identity: Any, at: int) -> Any:
        if not self._torch:
            self._scan.report.warn(
                "persistent-id",
                "asks its loader for objects that are not in the file",
                self._place(at),
            )
        elif not (isinstance(identity, tuple) and identity and identity[0] == "storage") and not (
            isinstance(identity, str)
        ):
            self.suspicious("persistent-id", "a torch storage that is none", at)
        return OPAQUE

    def raw_array(self, instance: Any, at: int) -> int:
        """Bytes of array data that joblib put between this BUILD and the next opcode."""
        if not isinstance(instance, Instance) or not is_array_wrapper(instance):
            return 0
        extent = array_extent(instance, self._source, at)
        if extent is not None:
            return extent
        # An array of objects: joblib writes a pickle of its own at this place.
        if self._scan.depth_left <= 0:
            raise UnreadableError(f"arrays of objects are nested too deep at {at}")
        self._scan.report.saw_format("pickle")
        inner = PickleRules(self._scan.deeper(), self._source, self._where, torch=self._torch)
        end = Machine(self._source, inner, self._scan.budget).run(at)
        self.refused += inner.refused
        return end - at


def scan_pickle(
    scan: Scan, source: Source, where: str, *, start: int = 0, torch: bool = False
) -> int:
    """Judge the stream at ``start``. Returns the offset after STOP, or the size if it is broken."""
    scan.report.saw_format("pickle")
    try:
        return Machine(source, PickleRules(scan, source, where, torch=torch), scan.budget).run(
            start
        )
    except UnreadableError as broken:
        scan.report.block("broken-pickle", str(broken), where)
        return source.size


def scan_pickles(scan: Scan, source: Source, where: str) -> None:
    """Judge a pickle file: its first stream, those that follow, and what comes after them."""
    if source.read(0, len(TORCH_LEGACY)) == TORCH_LEGACY:
        _scan_torch_legacy(scan, source, where)
        return
    end = scan_pickle(scan, source, where)
    streams = 1
    while end < source.size:
        while end < source.size and not (padding := source.read(end, 4096)).strip(b"\0"):
            end += len(padding)
        if end >= source.size:
            break
        padding = source.read(end, 4096)
        end += len(padding) - len(padding.lstrip(b"\0"))
        after = probe_pickle(scan, source, where, start=end)
        if after is None:
            scan.report.warn(
                "trailing-data", f"{source.size - end} bytes follow the pickle", f"{where}@{end}"
            )
            scan.nested(Part(source, end, source.size - end), f"{where}!trailing", probing=True)
            return
        end = after
        streams += 1
        scan.budget.spend_member()
    if streams > 1:
        scan.report.saw_format(f"{streams} pickle streams")


def _scan_torch_legacy(scan: Scan, source: Source, where: str) -> None:
    """``torch.save`` before 1.6: magic, version, platform, object and storage keys, each a pickle;
    then the raw storages."""
    scan.report.saw_format("torch")
    end = 0
    for _ in range(5):
        end = scan_pickle(scan, source, where, start=end, torch=True)


def probe_pickle(scan: Scan, source: Source, where: str, *, start: int = 0) -> int | None:
    """Judge bytes that may be a pickle; None where they are none.

    A broken stream counts as soon as it named an import that is refused and exists: the payload of
    such a file runs before the loader fails.
    """
    trial = scan.aside()
    rules = PickleRules(trial, source, where)
    try:
        end = Machine(source, rules, scan.budget).run(start)
    except UnreadableError:
        if trial.report.worst and any(_exists(name) for name in trial.report.imports):
            trial.report.block("broken-pickle", "a pickle that breaks after its imports", where)
            scan.absorb(trial)
        return None
    except OverBudgetError:
        scan.absorb(trial)
        raise
    if end - start > 2:
        scan.report.saw_format("pickle")
    scan.absorb(trial)
    return end


def _exists(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _allocation(arguments: Any) -> int:
    """The largest product of integers in a (nested) tuple; unknown arguments count as too many."""
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
                largest = max(largest, _allocation(item))
        return max(product, largest)
    return 0


def _plain(arguments: Any) -> bool:
    """Whether arguments hold no text that could be a command, a path or an address."""
    if isinstance(arguments, str):
        return all(letter.isalnum() or letter in "_-" for letter in arguments)
    if isinstance(arguments, tuple):
        return all(_plain(item) for item in arguments)
    return True
