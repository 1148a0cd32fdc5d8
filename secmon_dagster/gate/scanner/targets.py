"""Names in configurations that a loader imports and calls: Hydra's ``_target_`` and its kin.

Loaders that instantiate what a model's metadata names ran any callable (CVE-2025-23304, NeMo).
"""

from __future__ import annotations

import re
import sys

from .context import Scan
from .imports import Standing, is_class_name

_KEY = r"_(?:target|partial_target|class|callable)_"
_TARGET = re.compile(rf"{_KEY}\\?[\"']?\s*[:=]\s*\\?[\"']?([\w.]*)(.?)", re.DOTALL)
_ANCHORED_KEY = re.compile(rf"&\S+\s+[\"']?{_KEY}")
# What begins a value that stands elsewhere or is put together: aliases, anchors, tags, comments,
# blocks, interpolations.
_ELSEWHERE = frozenset("*&!#>|$?")
_ESCAPE = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|\r?\n[ \t]*)")
# Where functions are parts of models: activations, initial values, transformations.
FUNCTIONS_UNDER = ("torch.nn", "torch.optim", "torchvision.", "torchaudio.", "keras.", "jax.nn")


def judge_targets(scan: Scan, text: str, where: str) -> None:
    """Judge each name that stands as a target in a text (YAML, JSON, or JSON inside of JSON)."""
    if "\\" in text:
        text = _ESCAPE.sub(_character, text)
    if "_target_" not in text and "_class_" not in text and "_callable_" not in text:
        return
    if _ANCHORED_KEY.search(text):
        scan.report.block("target-elsewhere", "the key of a target stands elsewhere", where)
    for found in _TARGET.finditer(text):
        full, following = found.groups()
        if following in _ELSEWHERE and (not full or following == "$"):
            scan.report.block("target-elsewhere", "what a target names stands elsewhere", where)
            continue
        module, _, name = full.rpartition(".")
        top = module.partition(".")[0]
        if scan.policy.judge(module, name).standing is Standing.ALLOWED:
            continue
        if top in sys.stdlib_module_names or (
            not is_class_name(name) and module and not full.startswith(FUNCTIONS_UNDER)
        ):
            scan.report.block("import", f"the configuration calls {full}", where, full)


def _character(escape: re.Match[str]) -> str:
    code = next((digits for digits in escape.groups() if digits), "")
    return chr(min(int(code, 16), sys.maxunicode)) if code else ""
