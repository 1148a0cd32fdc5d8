"""Rules for pickle streams: which imports, calls and state changes a file may make.

The induction behind it: if each import on the allow-list is harmless for any arguments and any
state, so is every program built of them. What would leave the allow-list (a computed import, a
call of anything but an import, a change to an import) blocks by itself. An import that is harmless
in one use only is confined to that use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from .budget import OverBudgetError, UnreadableError
from .context import Scan
from .imports import Standing, python3_name
from .joblib_arrays import WRAPPER, array_extent, is_array_wrapper
from .pickle_calls import (
    MAX_ALLOCATION,
    allocation,
    encodes_plainly,
    holds_text,
    is_endless_number,
    is_plain,
)
from .pickle_machine import Machine
from .pickle_values import HOOKS, OPAQUE, Global, Instance, Judge, Mapping
from .source import Bytes, Part, Source

GETATTR = Global("builtins", "getattr")
RECONSTRUCTOR = Global("copyreg", "_reconstructor")
CONFINED = frozenset({WRAPPER, GETATTR})
# Reconstructors that call one of their arguments, here the one at this place.
BIT_GENERATOR = Global("numpy.random._pickle", "__bit_generator_ctor")
TAKES_BIT_GENERATOR = frozenset(
    Global("numpy.random._pickle", name) for name in ("__generator_ctor", "__randomstate_ctor")
)
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")


class PickleRules:
    """The judge of one pickle stream.

    ``torch`` allows torch's persistent storages. ``arrays`` says that joblib may be the loader,
    which reads raw arrays between the opcodes; both readings are judged then.
    """

    def __init__(
        self, scan: Scan, source: Source, where: str, *, torch: bool = False, arrays: bool = True
    ) -> None:
        self.scan = scan
        self.confined = False
        self._source = source
        self._where = where
        self._torch = torch
        self._arrays = arrays
        self._suspected = False
        self._named_known = False
        self._called_refused = False
        self._saw_known = False

    @property
    def runs(self) -> bool:
        """Whether something happens before the stream breaks: it names an import that exists and is
        refused, calls one that may exist, or does with existing ones what no benign file does."""
        return self._named_known or self._called_refused or (self._suspected and self._saw_known)

    def _place(self, at: int) -> str:
        return f"{self._where}@{at}"

    def suspicious(self, rule: str, message: str, at: int) -> None:
        self._suspected = True
        self.scan.report.block(rule, message, self._place(at))

    def imported(self, module: str, name: str, protocol: int, at: int) -> Global:
        if protocol < 3:
            module, name = python3_name(module, name)
        found = Global(module, name)
        self.scan.report.imports.add(str(found))
        top = module.partition(".")[0]
        known = top in sys.stdlib_module_names or top in self.scan.policy.public
        self._saw_known |= known
        if found in CONFINED:
            self.confined = True
            return found
        judgement = self.scan.policy.judge(module, name)
        if judgement.standing is Standing.REFUSED:
            self._named_known |= known
            message = f"{found} {judgement.reason}"
            self.scan.report.block("import", message, self._place(at), str(found))
        elif judgement.standing is Standing.UNKNOWN:
            message = f"{found} {judgement.reason}"
            self.scan.report.warn("unknown-class", message, self._place(at), str(found))
        return found

    def contained(self, items: Iterable[Any], at: int) -> None:
        """Confined imports may not be put into anything or given to anybody."""
        pending = [items]
        while pending:
            for item in pending.pop():
                kind = type(item)
                if kind is tuple:
                    pending.append(item)
                elif kind is Global and item in CONFINED:
                    self.suspicious("import-handed-on", f"the import {item} is handed on", at)

    def called(
        self, callee: Any, arguments: Any, at: int, *, constructor: bool
    ) -> Instance | Global:
        if not isinstance(callee, Global):
            self.suspicious("computed-call", "something other than an import is called", at)
            return Instance(None)
        if constructor and not isinstance(arguments, tuple | Instance):
            raise UnreadableError(f"{callee} is called without a tuple of arguments at {at}")
        if callee == GETATTR:
            return self._attribute(arguments, at)
        if callee == RECONSTRUCTOR and isinstance(arguments, tuple) and arguments[:1] == (WRAPPER,):
            return Instance(WRAPPER)
        if callee == WRAPPER and constructor:
            self.suspicious("import-handed-on", f"{callee} is called, not restored", at)
        if self.confined:
            self.contained((arguments,), at)
        self._check_arguments(callee, arguments, at, constructor=constructor)
        self._check_called_argument(callee, arguments, at)
        return Instance(callee, arguments)

    def _check_called_argument(self, callee: Global, arguments: Any, at: int) -> None:
        given = arguments if isinstance(arguments, tuple) else (OPAQUE,)
        if callee in TAKES_BIT_GENERATOR and any(one != BIT_GENERATOR for one in given[1:]):
            self.suspicious("computed-call", f"{callee} is given something else to call", at)
        elif callee == RECONSTRUCTOR and len(given) == 3 and isinstance(given[1], Global):
            # It calls the constructor of the base with the third.
            self._check_arguments(given[1], given[2:], at, constructor=True)
        elif callee == FROM_TYPE:
            self.called(given[0], given[2] if len(given) > 2 else OPAQUE, at, constructor=False)

    def _attribute(self, arguments: Any, at: int) -> Instance | Global:
        if isinstance(arguments, tuple) and len(arguments) == 2 and isinstance(arguments[1], str):
            owner, name = arguments
            if isinstance(owner, Global):
                method = Global(owner.module, f"{owner.name}.{name}")
                if (method.module, method.name) in self.scan.policy.methods:
                    return method
        message = f"{GETATTR} takes an attribute that nobody vetted"
        self.scan.report.block("import", message, self._place(at), str(GETATTR))
        self._named_known = True
        return Instance(None)

    def _check_arguments(
        self, callee: Global, arguments: Any, at: int, *, constructor: bool
    ) -> None:
        key, policy = (callee.module, callee.name), self.scan.policy
        if key == ("_codecs", "encode"):
            content = arguments[0] if isinstance(arguments, tuple) and arguments else None
            if isinstance(content, str):
                data = content.encode("latin-1", "replace")
                self.blob(Bytes(data), 0, len(data))
            if not encodes_plainly(arguments):
                self.suspicious("codec", "_codecs.encode with a codec that is not plain text", at)
        too_much = key in policy.allocates and allocation(arguments) > MAX_ALLOCATION
        if too_much or is_endless_number(callee, arguments):
            self.suspicious("memory-bomb", f"{callee} is asked for more than 2 GiB", at)
        if constructor and key in policy.restored and holds_text(arguments):
            self.suspicious("constructor", f"{callee} is given a text, which it opens", at)
        if policy.only_named(*key):
            self.suspicious("function-called", f"{callee} is called; models only hold it", at)
        standing = policy.judge(*key).standing
        if standing is Standing.REFUSED and key not in policy.methods:
            self._called_refused |= all(map(_is_name, (*callee.module.split("."), callee.name)))
        if constructor and standing is Standing.UNKNOWN and not is_plain(arguments):
            message = f"{callee}, which nobody vetted, is called with text chosen by the file"
            self.suspicious("unknown-constructor", message, at)

    def built(self, target: Any, state: Any, at: int) -> None:
        if self.confined:
            self.contained((state,), at)
        if isinstance(target, Global):
            self.suspicious("import-changed", f"the state of the import {target} is changed", at)
        elif isinstance(target, Instance):
            target.state = state
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, Mapping) and (part.computed or HOOKS & part.known.keys()):
                    self.suspicious("hook", "state replaces a method the unpickler calls", at)

    def blob(self, source: Source, start: int, length: int) -> None:
        if length < 8 or self.scan.depth_left <= 0:
            return
        if source.read(start + length - 1, 1) != b".":
            return
        if source.read(start, 1) in (b"\x80", b"c", b"("):
            probe_pickle(self.scan.deeper(), Part(source, start, length), self._place(start))

    def persistent(self, identity: Any, at: int) -> Any:
        if not self._torch:
            self.scan.report.warn(
                "persistent-id",
                "asks its loader for objects that are not in the file",
                self._place(at),
            )
        elif not (isinstance(identity, tuple) and identity and identity[0] == "storage") and not (
            isinstance(identity, str)
        ):
            self.suspicious("persistent-id", "a torch storage that is none", at)
        return OPAQUE

    def raw_array(self, instance: Any, at: int) -> int | None:
        """Bytes of array data that joblib put between this BUILD and the next opcode; None where it
        would read none."""
        if not self._arrays or not isinstance(instance, Instance) or not is_array_wrapper(instance):
            return None
        extent = array_extent(instance, self._source, at)
        if extent is not None:
            return extent
        # An array of objects: joblib writes a pickle of its own at this place, and reads it with a
        # plain unpickler.
        if self.scan.depth_left <= 0:
            raise UnreadableError(f"arrays of objects are nested too deep at {at}")
        self.scan.report.saw_format("pickle")
        inner = PickleRules(
            self.scan.deeper(), self._source, self._where, torch=self._torch, arrays=False
        )
        end = Machine(self._source, inner, self.scan.budget).run(at)
        return end - at

    def read_plainly(self, at: int) -> Judge | None:
        """A judge for the other reading of what follows: as opcodes, without joblib."""
        if self.scan.depth_left <= 0:
            raise UnreadableError(f"readings of an array are nested too deep at {at}")
        return PickleRules(self.scan.aside(), self._source, self._where, arrays=False)

    def settle(self, trial: Judge) -> None:
        """Take over what the other reading found, if it comes to anything before it breaks."""
        assert isinstance(trial, PickleRules)
        if trial.runs:
            self.scan.absorb(trial.scan)


def _is_name(part: str) -> bool:
    return part.isidentifier() and part.isascii()


def probe_pickle(scan: Scan, source: Source, where: str, *, start: int = 0) -> int | None:
    """Judge bytes that may be a pickle; None where they are none.

    A broken stream counts as soon as something :attr:`~PickleRules.runs` before it breaks.
    """
    trial = scan.aside()
    rules = PickleRules(trial, source, where)
    try:
        end = Machine(source, rules, scan.budget).run(start)
    except UnreadableError:
        if rules.runs:
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
