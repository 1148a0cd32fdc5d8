"""Hostile files that real loaders ran and an earlier scanner let pass, one idea each.

Yields class, file name and bytes as :mod:`tests.gate.scanner.hostile` does; nothing is ever loaded.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.gate.scanner.hostile import SYSTEM, Case, text, zipped

HEAD = b"\x80\x04"


def imported(name: str) -> bytes:
    """Opcodes that import ``module name``."""
    module, _, attribute = name.rpartition(" ")
    return text(module) + text(attribute) + b"\x93"


def beyond_a_byte(value: str) -> bytes:
    """STRING of ``value`` in octal escapes of nine bits: the unpickler drops the ninth."""
    return b"S'" + b"".join(b"\\%03o" % (ord(letter) | 0o400) for letter in value) + b"'\n"


def pickles() -> Iterator[Case]:
    """Names in disguise, and gadgets made of allow-listed names only."""
    popen = beyond_a_byte("subprocess") + beyond_a_byte("Popen") + b"\x93"
    yield "loader", "octal.pkl", HEAD + popen + beyond_a_byte("id") + b"\x85R."
    # What these call calls a method of its argument by a name that the argument holds.
    stack = imported("sklearn.ensemble._stacking StackingRegressor") + b")\x81"
    scorer = imported("sklearn.metrics._scorer _passthrough_scorer")
    yield "loader", "score.pkl", HEAD + scorer + stack + text("x") + b"\x86R."
    kernel = imported("sklearn.gaussian_process.kernels Sum") + b")\x81"
    for name in ("__generator_ctor", "__randomstate_ctor"):
        call = imported(f"numpy.random._pickle {name}") + stack + kernel + b"\x86R."
        yield "loader", f"{name}.pkl", HEAD + call
    typed = imported("torch._tensor _rebuild_from_type_v2") + b"(" + scorer
    yield "loader", "typed.pkl", HEAD + typed + b"N" + stack + text("x") + b"\x86NtR."
    sort = imported("builtins sorted") + b"]\x85R."
    yield "loader", "sorted.pkl", HEAD + sort
    frame = imported("pandas.core.frame DataFrame") + b")R"
    yield "loader", "frame.pkl", HEAD + frame + kernel + b"K\x01s."
    computed = imported("builtins str") + text("sh -c id") + b"\x85R\x85R."
    yield "loader", "computed-path.pkl", HEAD + imported("xgboost.core Booster") + computed
    yield "loader", "computed-text.pkl", HEAD + imported("acme.tools Runner") + computed
    runner = imported("acme.tools Runner") + b"2" + text("sh -c id") + b"\x87R."
    yield "loader", "base.pkl", HEAD + imported("copyreg _reconstructor") + runner
    yield "loader", "second-of-texts", b"I1\n.N.cos\nsystem\n(S'id'\ntR."
    hook = imported("builtins str") + text("__setstate__") + b"\x85R" + kernel
    yield "loader", "hook.pkl", HEAD + stack + b"}" + hook + b"sbK\x01b."


def two_directories(*, in_comment: bool) -> bytes:
    """A zip whose directory is one member's for who believes the end record, another's for
    ``zipfile``, which looks for a zip64 record in any case, just before its locator."""
    hidden = zipped({"a.npy": b"hidden" + SYSTEM})
    body = hidden[: hidden.index(b"PK\x01\x02")]
    array = io.BytesIO()
    np.save(array, np.frombuffer(body, "u1"))
    shown = zipped({"a.npy": array.getvalue()})
    start = shown.rindex(b"PK\x01\x02")
    directory, other = bytearray(shown[start : shown.rindex(b"PK\x05\x06")]), bytearray(hidden)
    other = other[other.index(b"PK\x01\x02") : other.index(b"PK\x05\x06")]
    other[42:46] = struct.pack("<I", shown.index(body))

    def record(length: int, at: int) -> bytes:
        head = struct.pack("<4sQ2H2L", b"PK\x06\x06", 44, 45, 45, 0, 0)
        return head + struct.pack("<4Q", 1, 1, length, at)

    def locator(at: int) -> bytes:
        return struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)

    after = start + len(directory)
    if in_comment:
        more = bytes(other) + record(len(other), after) + locator(after + len(other))
        directory[32:34] = struct.pack("<H", len(more))
        numbers = (1, 1, len(directory) + len(more), start)
    else:
        more = record(len(directory), start)
        more += bytes(other) + record(len(other), after + len(more)) + locator(after)
        numbers = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *numbers, 0)
    return shown[:start] + bytes(directory) + more + end


def tar_in_a_pickle(*, signed: bool) -> bytes:
    """One value to an unpickler, a tar to torch, which tries that first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
        info = tarfile.TarInfo("pickle")
        info.size = len(SYSTEM)
        archive.addfile(info, io.BytesIO(SYSTEM))
    made = bytearray(buffer.getvalue())
    made[:7] = b"\x80\x04B" + struct.pack("<I", len(made) - 9)
    made[-2:] = b"\x85."
    # POSIX sums unsigned bytes and writes octal; Python's reader takes these two as well.
    plain = sum(made[:148]) + 8 * 0x20 + sum(made[156:512])
    high = sum(byte > 127 for byte in made[:148] + made[156:512])
    made[148:156] = b"%06o\0 " % (plain - 256 * high) if signed else b"\x80" + plain.to_bytes(7)
    return bytes(made)


def containers() -> Iterator[Case]:
    """Archives that the loader opens elsewhere than a reader of one record would."""
    yield "loader", "zip64-in-a-comment.npz", two_directories(in_comment=True)
    yield "loader", "zip64-behind-another.npz", two_directories(in_comment=False)
    yield "loader", "signed-sum.pt", tar_in_a_pickle(signed=True)
    yield "loader", "binary-sum.pt", tar_in_a_pickle(signed=False)


def node(loader: str, name: str, **members: Any) -> dict[str, Any]:
    """A node of a skops schema."""
    module, _, kind = name.rpartition(".")
    return {"__loader__": loader, "__module__": module, "__class__": kind, **members}


def schemas() -> Iterator[Case]:
    """skops: names that another member seems to overrule, and what makes a dict's keys."""
    told = {"module_path": "builtins", "function": "len", "type_name": "int"}
    for loader in ("TypeNode", "FunctionNode"):
        yield skops(f"{loader}.skops", node(loader, "os.system", content=told))
    path = node("ObjectNode", "pathlib.PosixPath")
    method = node("MethodNode", "pathlib.PosixPath", content={"func": "write_text", "obj": path})
    keys = node("ListNode", "builtins.list", content=[method])
    yield skops("keys.skops", node("DictNode", "builtins.dict", key_types=keys, content={"x": {}}))
    scorer = "sklearn.metrics._scorer._passthrough_scorer"
    arguments = node("TupleNode", "builtins.tuple", content=[])
    yield skops("call.skops", node("ConstructorFromReduceNode", scorer, content=arguments))


def skops(name: str, schema: dict[str, Any]) -> Case:
    """A file of this schema."""
    return "loader", name, zipped({"schema.json": json.dumps(schema).encode()})


def texts() -> Iterator[Case]:
    """Templates, YAML, Keras, protobuf."""
    yield "loader", "mark-in-text.jinja", b"""{{ "%}" ~ ''.__class__.__mro__ }}"""
    for number, mark in enumerate(("\r", "\x85", "\u2028")):
        document = f"---{mark}!!python/object/apply:os.system [id]\n"
        yield "loader", f"line-break-{number}.yaml", document.encode()
    for layer in (
        {"module": "builtins", "class_name": "function", "config": "exec"},
        {"module": "keras.models", "class_name": "load_model", "config": {}},
    ):
        config = {"class_name": "Sequential", "config": {"layers": [layer]}}
        members = {"config.json": json.dumps(config).encode(), "metadata.json": b"{}"}
        yield "loader", f"{layer['class_name']}.keras", zipped(members)
    # What Hydra instantiates, written so that the name does not stand behind its key.
    for name, config in {
        "escaped.json": r'{"a": {"\u005ftarget_": "os.system"}}',
        "interpolated.json": '{"x": "os.system", "a": {"_target_": "${x}"}}',
        "escaped.yaml": r'a: {"\x5ftarget_": os.system}',
        "split.yaml": 'a: {"_target_": "os\\\n  .system"}',
        "anchored.yaml": "a:\n  _target_: &name os.system\n",
        "alias.yaml": "x: &name os.system\na:\n  _target_: *name\n",
        "commented.yaml": "a:\n  _target_: # a comment\n    os.system\n",
        "folded.yaml": "a:\n  _target_: >-\n    os.system\n",
        "tagged.yaml": "a:\n  _target_: !!str os.system\n",
        "key.yaml": "keys: [&key _target_]\na:\n  *key : os.system\n",
        "joined.yaml": "x: system\na:\n  _target_: os.${x}\n",
    }.items():
        yield "loader", name, config.encode()
    # Longer than a reader's window, and begun near its end.
    padded = {"class_name": "Lambda", "config": {"function": "", "name": "x" * (13 << 20)}}
    document = b"\x89HDF\r\n\x1a\n" + bytes(14_500_000) + json.dumps(padded).encode()
    yield "loader", "long.h5", document
    declared = b'<?xml version="1.0" encoding="UTF-7"?><PMML/>+ADwAIQ-ENTITY'
    yield "loader", "utf7.pmml", declared
    # The graph's tag with a 33rd bit, which onnxruntime's reader drops.
    node = b"\x22\x04PyOp"
    graph = b"\x0a" + bytes([len(node)]) + node
    yield "loader", "long-tag.onnx", b"\x08\x08\x3a\x00\xba\x80\x80\x80\x10\x08" + graph


def corpus() -> list[Case]:
    """All of them."""
    return [case for kind in (pickles, containers, schemas, texts) for case in kind()]
