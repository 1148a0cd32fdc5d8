"""JSON documents by what they are: notebooks, Keras models, tokenizer settings, jsonpickle."""

from __future__ import annotations

import json
from typing import Any

from .context import Scan
from .keras import judge_keras
from .python_code import judge_notebook
from .sniff import suffix_of
from .source import Source
from .targets import judge_targets
from .templates import judge_template
from .text_data import read_text


def scan_json(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge one document; a text that only begins like JSON is unreadable under a JSON name."""
    text = read_text(scan, source, where)
    if text is None:
        return
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as broken:
        if suffix_of(name) in ("json", "ipynb"):
            scan.report.block("unreadable", f"no JSON: {broken}", where)
        return
    scan.report.saw_format("json")
    if isinstance(document, dict) and "cells" in document and "nbformat" in document:
        judge_notebook(scan, document, where)
        return
    if isinstance(document, dict) and "worksheets" in document:
        sheets = document["worksheets"]
        for sheet in sheets if isinstance(sheets, list) else []:
            if isinstance(sheet, dict) and "cells" in sheet:
                judge_notebook(scan, sheet, where)
    judge_keras(scan, document, where)
    judge_targets(scan, text, where)
    pending: list[Any] = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            for key, value in node.items():
                _member(scan, key, value, where)
                pending.append(value)


def _member(scan: Scan, key: str, value: Any, where: str) -> None:
    place = f"{where}!{key}"
    if key.startswith("py/") and key not in ("py/tuple", "py/set", "py/id"):
        scan.report.block("jsonpickle", f"{key} makes Python objects", place)
    elif key in ("auto_map", "custom_pipelines") and value:
        scan.report.warn("remote-code", "asks its loader to run code from beside the model", place)
    elif isinstance(value, str) and ("template" in key or "{%" in value or "{{" in value):
        judge_template(scan, value, place)
