"""Jinja chat templates: text that a tokenizer renders, and that can reach Python's internals.

CVE-2024-34359 (llama-cpp-python) and its kin render templates without a sandbox.
"""

from __future__ import annotations

import re

from .context import Scan
from .source import Source
from .text_data import read_text

# A mark inside a text ends no block.
_BLOCKS = re.compile(r"""\{[{%]((?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?![%}]\}).)*)""", re.DOTALL)
_REACHING = re.compile(
    r"__"  # dunder names, also as text that is put together
    r"|['\"]_['\"]"  # a single underscore as text, for the same end
    r"|\\x5f|\\u005f|\\137|%5f"  # an underscore in disguise
    r"|\|\s*(?:attr|format_map)\b"
    r"|\b(?:lipsum|cycler|joiner|_TemplateReference|getattr|globals|popen|subprocess)\b"
    r"|\\N\{|%c\b|['\"][a-z]{1,12}['\"]\s*[+~]\s*['\"][a-z]{1,12}['\"]"  # names put together
    r"|['\"]\w+['\"]\s*\|\s*(?:reverse|replace|format|urlencode)\b"
    r"|\[\s*['\"]\w+['\"][^\]]*\]\s*\|\s*join\b"
    r"|\brange\s*\([^)]*\d{8}"  # a loop without end
    r"|\bself\s*[.\[]\s*_?"
    r"|\bmap\s*\(\s*['\"]?attribute"
    r"|^\s*-?\s*(?:import|include|extends|from)\b",
    re.IGNORECASE | re.MULTILINE,
)


def judge_template(scan: Scan, text: str, where: str) -> None:
    """Judge the expressions and statements of one template."""
    for block in _BLOCKS.finditer(text):
        reached = _REACHING.search(block.group(1))
        if reached:
            scan.report.block(
                "template-injection", f"a template reaches for {reached.group().strip()}", where
            )
            return


def scan_template(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge a template file."""
    scan.report.saw_format("template")
    text = read_text(scan, source, where)
    if text is not None:
        judge_template(scan, text, where)
