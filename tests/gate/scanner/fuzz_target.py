"""One input of the fuzzers: two bytes choose a file name and a container, the rest is the file.

The promise that is tested: whatever the bytes are, the scanner ends with a report, within its
budget, and neither loads, imports nor starts anything on the way.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from secmon_dagster.gate.scanner import Budget, scan_source
from secmon_dagster.gate.scanner.source import Bytes

CORPUS = Path(__file__).parent / "fuzz_corpus"
SUFFIXES = (
    *("", "pkl", "joblib", "pt", "npy", "npz", "skops", "onnx", "pb", "h5", "gguf", "tar", "yaml"),
    *("csv", "py", "ipynb", "json", "safetensors", "keras", "pmml", "jinja"),
)
NAMES = tuple(f"x.{suffix}" if suffix else "x" for suffix in SUFFIXES)
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.",
             "pickle.find_class", "ctypes.dlopen")  # fmt: skip
SEEN: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # The zip reader's own codec (cp437) is imported when it is first used.
    loads = event == "import" and not str(arguments[0]).startswith("encodings.")
    if loads or event.startswith(FORBIDDEN):
        SEEN.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_hook)


def _zip(member: str, data: bytes, *beside: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), data)
        for other in beside:
            archive.writestr(zipfile.ZipInfo(other), b"{}")
    return buffer.getvalue()


def _tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# A mutator can't keep a CRC right, so containers are put around the bytes after they were changed.
WRAPPERS = (
    lambda data: data,
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: _zip("archive/data.pkl", data),
    lambda data: _zip("schema.json", data),
    lambda data: _zip("config.json", data, "metadata.json"),
    lambda data: _zip("a.npy", data),
    lambda data: _tar(data),
)


def as_input(name: str, data: bytes, wrapper: int = 0) -> bytes:
    """A file as an input of the fuzzers."""
    suffix = name.rpartition(".")[2] if "." in name else ""
    number = SUFFIXES.index(suffix) if suffix in SUFFIXES else 0
    return bytes([number, wrapper]) + data


def run_input(chosen: bytes) -> None:
    """Judge one input of the fuzzers."""
    if len(chosen) >= 2:
        wrap = WRAPPERS[chosen[1] % len(WRAPPERS)]
        judge(wrap(chosen[2:]), NAMES[chosen[0] % len(NAMES)])


def judge(data: bytes, name: str) -> None:
    """Scan ``data`` and check what is promised for any bytes."""
    SEEN.clear()
    budget = Budget(seconds=5.0, inflated_bytes=64 << 20, opcodes=2_000_000)
    report = scan_source(Bytes(data), name, budget=budget)
    assert report.recommendation in ("allow", "warn", "block")
    failed = [found for found in report.findings if "the reader failed" in found.message]
    assert not failed, failed
    assert not SEEN, SEEN
