"""Names in configurations that a loader imports and calls: Hydra's ``_target_`` and its kin.

Loaders that instantiate what a model's metadata names ran any callable (CVE-2025-23304, NeMo).
"""

from __future__ import annotations

import re
import sys

from .context import Scan
from .imports import Standing, is_class_name

_TARGET = re.compile(
    r"\\?[\"']?_(?:target|partial_target|class|callable)_\\?[\"']?\s*[:=]\s*\\?[\"']?([\w.]+)"
)
# Where functions are parts of models: activations, initial values, transformations.
FUNCTIONS_UNDER = ("torch.nn", "torch.optim", "torchvision.", "torchaudio.", "keras.", "jax.nn")


def judge_targets(scan: Scan, text: str, where: str) -> None:
    """Judge each name that stands as a target in a text (YAML, JSON, or JSON inside of JSON)."""
    if "_target_" not in text and "_class_" not in text and "_callable_" not in text:
        return
    for found in _TARGET.finditer(text):
        module, _, name = found.group(1).rpartition(".")
        full = found.group(1)
        top = module.partition(".")[0]
        if scan.policy.judge(module, name).standing is Standing.ALLOWED:
            continue
        if top in sys.stdlib_module_names or (
            not is_class_name(name) and module and not full.startswith(FUNCTIONS_UNDER)
        ):
            scan.report.block("import", f"the configuration calls {full}", where, full)
