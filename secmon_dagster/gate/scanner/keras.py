"""Keras configurations: layers that are code, and names that lead out of Keras.

A serialised object is ``{"module", "class_name", "config", "registered_name"}``; the loader imports
``module``. ``safe_mode`` is ignored for HDF5 files (CVE-2025-9905) and was passed by module paths
(CVE-2025-1550, CVE-2025-8747).

Source: ``keras/src/saving/serialization_lib.py``.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from typing import Any

from .context import Scan
from .imports import Standing, is_class_name
from .source import Source
from .text_data import MAX_TEXT

CODE_LAYERS = frozenset(
    {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
)
ROOTS = ("keras", "tf_keras", "keras_nlp", "keras_hub", "keras_cv")
PARTS = frozenset(
    {
        *("layers", "models", "initializers", "regularizers", "constraints", "optimizers"),
        *("losses", "metrics", "activations", "mixed_precision", "dtype_policies", "random"),
        *("applications", "quantizers", "tokenizers", "engine"),
    }
)
FUNCTION_PARTS = frozenset({"activations", "losses", "metrics", "initializers"})
MAX_CANDIDATES = 20_000
_PICKLED_IMPORT = re.compile(
    rb"c([a-z_][a-z_.0-9]{1,60})\n[A-Za-z_]\w{1,60}\n|\x8c.([a-z_][a-z_.0-9]{1,60})\x94?\x8c.\w+\x94?\x93",
    re.DOTALL,
)


def judge_keras(scan: Scan, config: Any, where: str) -> None:
    """Judge a decoded configuration, all the way down."""
    pending = [config]
    while pending:
        node = pending.pop()
        scan.budget.spend_opcodes(1)
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            pending += node.values()
            if isinstance(node.get("class_name"), str):
                _judge_object(scan, node, node["class_name"], where)


def _judge_object(scan: Scan, node: dict[str, Any], name: str, where: str) -> None:
    registered = node.get("registered_name")
    last = name.rpartition(">")[2].rpartition(".")[2]
    if last in CODE_LAYERS or (isinstance(registered, str) and registered in CODE_LAYERS):
        scan.report.block("keras-code", f"a layer of class {name} holds or loads code", where)
    module = node.get("module")
    if module is None:
        return
    if not isinstance(module, str):
        scan.report.block("keras-module", "a module that is not a name", where)
        return
    parts = [part for part in module.split(".") if part not in ("src", "api", "_tf_keras", "v2")]
    if parts[0] == "tensorflow":
        parts = parts[1:] or ["tensorflow"]
    if parts[0] == "builtins" and name in ("function", "dict", "tuple", "list", "set", "slice"):
        # One of Keras's own functions, by a name of no module; Python's are found the same way.
        if name == "function" and hasattr(builtins, str(node.get("config"))):
            full = f"builtins.{node.get('config')}"
            scan.report.block("import", f"the configuration imports {full}", where, full)
        return
    if parts[0] not in ROOTS:
        judgement = scan.policy.judge(module, str(node["class_name"]))
        if judgement.standing is not Standing.ALLOWED:
            full = f"{module}.{node.get('config') if name == 'function' else name}"
            scan.report.block("import", f"the configuration imports {full}", where, full)
    elif len(parts) > 1 and parts[1] not in PARTS:
        scan.report.block("keras-module", f"{module} holds more than layers", where, module)
    elif name == "function" and (len(parts) < 2 or parts[1] not in FUNCTION_PARTS):
        scan.report.block("keras-function", f"the function {module}.{node.get('config')}", where)
    elif name != "function" and not is_class_name(last):
        scan.report.block("keras-function", f"the function {module}.{name}", where)


def _judge_pickles(scan: Scan, source: Source, where: str) -> None:
    """PyTables keeps objects as pickles in attributes and rows: those that import block."""
    at, window = 0, 4 << 20
    while at < source.size:
        data = source.read(at, window)
        for found in _PICKLED_IMPORT.finditer(data):
            module = (found.group(1) or found.group(2)).decode("ascii")
            if module.partition(".")[0] in sys.stdlib_module_names:
                rule, text = "hdf5-pickle", f"holds a pickle that imports from {module}"
                scan.report.block(rule, text, f"{where}@{at + found.start()}")
        scan.budget.check_time()
        at += window - 256 if at + window < source.size else window


def _whole(scan: Scan, source: Source, start: int, decoder: json.JSONDecoder) -> Any:
    """The JSON text that a window cut off; None where it is none."""
    scan.budget.check_time()
    text = source.read(start, MAX_TEXT).decode("latin-1")
    try:
        return decoder.raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def scan_hdf5(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge the JSON texts in an HDF5 file: Keras keeps a model's configuration in attributes.

    Attributes are never compressed, so each configuration is a contiguous text.
    """
    scan.report.saw_format("hdf5")
    _judge_pickles(scan, source, where)
    decoder = json.JSONDecoder()
    window, overlap, at, tried = 16 << 20, 4 << 20, 0, 0
    while at < source.size:
        text = source.read(at, window).decode("latin-1")
        skip = 0
        for found in re.finditer(r"\{\s*\"", text):
            if found.start() < skip or (at and found.start() < overlap // 2):
                continue
            tried += 1
            if tried > MAX_CANDIDATES:
                scan.report.block("over-budget", "more JSON texts than a scan may read", where)
                return
            try:
                value, skip = decoder.raw_decode(text, found.start())
            except json.JSONDecodeError as broken:
                cut = broken.msg.startswith("Unterminated") or broken.pos > len(text) - 8
                if not cut or at + window >= source.size:
                    continue
                value = _whole(scan, source, at + found.start(), decoder)
            except RecursionError:
                continue
            judge_keras(scan, value, where)
        scan.budget.check_time()
        at += window - overlap if at + window < source.size else window
