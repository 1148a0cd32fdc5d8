"""The entry of the scanner: choose a reader by magic, compare with what the name promises."""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .archives import scan_compressed, scan_zip
from .budget import Budget, OverBudgetError, UnreadableError
from .context import Scan
from .gguf import scan_gguf
from .imports import ImportPolicy, load_policy
from .inflate import DECOMPRESSORS
from .json_data import scan_json
from .keras import scan_hdf5
from .npy import scan_npy
from .onnx import looks_like_onnx, scan_onnx
from .pickle_rules import probe_pickle
from .pickles import scan_pickles
from .python_code import scan_python
from .report import Report
from .safetensors import scan_safetensors
from .sniff import PICKLE, SCRIPTS, TEXT, is_tar_header, is_text, promised, sniff, suffix_of
from .source import Descriptor, Source
from .tars import scan_tar
from .templates import scan_template
from .tensorflow import scan_savedmodel
from .text_data import scan_csv, scan_xml, scan_yaml
from .zips import find_directory

VERSION = "3"
Reader = Callable[[Scan, Source, str, str], None]


def _executable(scan: Scan, source: Source, where: str, name: str) -> None:
    scan.report.block("executable", "an executable program", where)


def _script(scan: Scan, source: Source, where: str, name: str) -> None:
    scan.report.warn("script", "a script in a language that is not read here", where)
    if FETCHES_AND_RUNS.search(source.read(0, 1 << 20)):
        scan.report.block("script", "a script that fetches a program and runs it", where)


def _pdf(scan: Scan, source: Source, where: str, name: str) -> None:
    scan.report.saw_format("pdf")
    for at in range(0, source.size, 1 << 22):
        scan.budget.check_time()
        if ACTIVE_PDF.search(source.read(at, (1 << 22) + 64)):
            scan.report.block("pdf-active", "a document that runs scripts or programs", where)
            return


def _closed(scan: Scan, source: Source, where: str, name: str, *, kind: str) -> None:
    scan.report.block("unreadable", f"{kind} content can't be read here", where)


def _pickles(scan: Scan, source: Source, where: str, name: str) -> None:
    scan_pickles(scan, source, where)


FETCHES_AND_RUNS = re.compile(
    rb"(?:curl|wget|fetch)\b[^\n]*\|\s*(?:sudo\s+)?(?:\w*sh|python\d?|perl|ruby|node)\b|/dev/tcp/|"
    rb"Invoke-Expression|\bIEX\b|DownloadString|base64\s+(?:-d|--decode)[^\n]*\|",
    re.IGNORECASE,
)
ACTIVE_PDF = re.compile(rb"/(?:JavaScript|JS|Launch|RichMedia|XFA)\b")
CLOSED = ("7z", "rar", "zstd", "lz4", "zfile", "compress", "lzip", "cab", "xar", "cpio", "ole")
READERS: dict[str, Reader] = {
    "zip": scan_zip,
    "npy": scan_npy,
    "pickle": _pickles,
    "executable": _executable,
    "script": _script,
    "safetensors": scan_safetensors,
    "hdf5": scan_hdf5,
    "gguf": scan_gguf,
    "tar": scan_tar,
    "json": scan_json,
    "pdf": _pdf,
    "xml": scan_xml,
    **{
        kind: partial(scan_compressed, kind=kind)
        for kind in ("gzip", "zlib", "bzip2", "xz", "lzma")
    },
    **{kind: partial(_closed, kind=kind) for kind in CLOSED},
}
# Formats without a magic of their own, read by what the name promises.
BY_NAME: dict[str, Reader] = {
    "onnx": scan_onnx,
    "pb": scan_savedmodel,
    "yaml": scan_yaml,
    "yml": scan_yaml,
    "csv": scan_csv,
    "tsv": scan_csv,
    "py": scan_python,
    "jinja": scan_template,
    "jinja2": scan_template,
    "j2": scan_template,
    **dict.fromkeys(("bat", "cmd", "ps1", "vbs", *SCRIPTS), _script),
}
TEXTS = frozenset({None, "json", "xml"})


def dispatch(scan: Scan, source: Source, where: str, name: str, probing: bool) -> None:
    """Judge bytes: by magic first, then by what their name promises."""
    scan.budget.check_time()
    promise = promised(name)
    if source.size == 0:
        if promise is not None and not TEXT & promise:
            scan.report.block("empty", "an empty file", where)
        return
    kind = sniff(source, name)
    if kind == "zlib" and promise is not PICKLE and not _inflates(source, kind):
        kind = None
    if kind in TEXTS and _is_bare_pickle(scan, source, where):
        kind = "pickle"
    elif kind in TEXTS and suffix_of(name) in BY_NAME:
        _read(scan, BY_NAME[suffix_of(name)], source, where, name)
        _polyglot(scan, source, where, "text")
        return
    elif kind is None and looks_like_onnx(source):
        kind = "onnx"
    elif kind is None and is_text(source):
        kind = "text"
    _compare(scan, kind, promise, where, name)
    reader = READERS.get(kind or "")
    if reader is not None:
        _read(scan, reader, source, where, name)
    elif kind is None and promise is None and not probing:
        scan.report.warn("unknown-format", "no format that can be judged", where)
    elif kind is not None:
        scan.report.saw_format(kind)
    if kind != "zip":
        _polyglot(scan, source, where, kind)


def _read(scan: Scan, reader: Reader, source: Source, where: str, name: str) -> None:
    try:
        reader(scan, source, where, name)
    except UnreadableError as broken:
        scan.report.block("unreadable", str(broken), where)


def _is_bare_pickle(scan: Scan, source: Source, where: str) -> bool:
    """Whether bytes without a magic are pickles of protocol 0 or 1; findings are reported."""
    trial = scan.aside()
    end = probe_pickle(trial, source, where)
    while end is not None and end < source.size and not trial.report.imports:
        scan.budget.spend_member()
        end = probe_pickle(trial, source, where, start=end)
    scan.absorb(trial)
    return bool(trial.report.imports) or (end == source.size and end >= 3)


def _compare(
    scan: Scan, kind: str | None, promise: frozenset[str] | None, where: str, name: str
) -> None:
    if promise is not None and kind not in promise:
        found = kind or "of no known format"
        scan.report.block(
            "promise-broken", f"{name} promises {_list(promise)}, the bytes are {found}", where
        )


def _polyglot(scan: Scan, source: Source, where: str, kind: str | None) -> None:
    """Judge bytes of one format as what another loader would take them for."""
    if kind not in ("pickle", "executable", "script", "text", *TEXTS):
        probe_pickle(scan.deeper(), source, where)
    if kind != "tar" and is_tar_header(source.read(0, 512)):
        scan.report.block("polyglot", "the same bytes are a tar archive too", where)
    try:
        directory = find_directory(source)
    except UnreadableError:
        scan.report.block("polyglot", "a zip archive hangs at the end of other bytes", where)
        return
    if directory is not None and directory.members:
        scan.report.block("polyglot", "the same bytes are a zip archive too", where)


def _inflates(source: Source, kind: str) -> bool:
    try:
        DECOMPRESSORS[kind]().decompress(source.read(0, 4096), 4096)
    except zlib.error:
        return False
    return True


def _list(formats: frozenset[str]) -> str:
    return " or ".join(sorted(formats))


def scan_source(
    source: Source, name: str, *, policy: ImportPolicy | None = None, budget: Budget | None = None
) -> Report:
    """Judge ``source`` under the name it goes by. Never raises for what the bytes hold."""
    budget = budget or Budget()
    scan = Scan(policy or load_policy(), budget, dispatch, depth_left=budget.depth)
    try:
        dispatch(scan, source, name, name, False)
    except OverBudgetError as over:
        scan.report.block("over-budget", str(over), name)
    except UnreadableError as broken:
        scan.report.block("unreadable", str(broken), name)
    except (MemoryError, RecursionError) as exhausted:
        scan.report.block("over-budget", f"needs too much memory: {exhausted}", name)
    except Exception as failed:
        # A file that confuses its reader is not a file that was read.
        reason = f"the reader failed: {type(failed).__name__}: {failed}"
        scan.report.block("unreadable", reason, name)
    return scan.report


def scan_path(
    path: str,
    *,
    name: str | None = None,
    policy: ImportPolicy | None = None,
    budget: Budget | None = None,
) -> Report:
    """Judge one regular file.

    Raises:
        OSError: it can't be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path!r} is not a regular file")
        shown = name if name is not None else Path(path).name
        return scan_source(
            Descriptor(descriptor, status.st_size), shown, policy=policy, budget=budget
        )
    finally:
        os.close(descriptor)
