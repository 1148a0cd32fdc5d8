"""Which of numpy's sorts is the fast one on this machine, found by trying.

On some processors (AMD Zen 4) numpy's AVX-512 sort is five times slower than its AVX2 sort, because
compressing stores to memory are microcoded there. numpy chooses when it is imported, so the choice
is made in two short processes and handed on as an environment variable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_log = logging.getLogger(__name__)

VARIABLE = "NPY_DISABLE_CPU_FEATURES"
WITHOUT_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR"
_WORTH = 1.5

_PROBE = """
import time, numpy as np
x = np.random.default_rng(0).random(200_000)
best = 9.0
for _ in range(5):
    y = x.copy()
    began = time.perf_counter()
    y.sort()
    best = min(best, time.perf_counter() - began)
print(best)
"""


def remembered_sort_environment(folder: Path) -> dict[str, str]:
    """What :func:`remember_fastest_sort` found on this machine; empty if it was never asked."""
    if VARIABLE in os.environ:
        return {}
    try:
        return dict(json.loads(_memory(folder).read_text()))
    except (OSError, ValueError):
        return {}


def remember_fastest_sort(folder: Path) -> None:
    """Try once per processor and numpy, and keep the outcome in ``folder``.

    A probe that fails or can't be kept costs speed, nothing else: numpy then chooses itself.
    """
    path = _memory(folder)
    if VARIABLE in os.environ or path.exists():
        return
    try:
        found = fastest_sort_environment()
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found))
        part.replace(path)
    except (OSError, ValueError, subprocess.SubprocessError) as failure:
        _log.warning("which of numpy's sorts is fast could not be found out: %s", failure)


def _memory(folder: Path) -> Path:
    machine = f"{_processor()}\n{version('numpy')}"
    return folder / f"sort-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"


def fastest_sort_environment() -> dict[str, str]:
    """The variable to set before numpy is imported; empty where numpy's own choice is as good.

    Takes about a second; a process that was told already, or has no AVX-512, asks nothing.
    """
    if VARIABLE in os.environ or not _has_avx512():
        return {}
    own, other = _seconds({}), _seconds({VARIABLE: WITHOUT_AVX512})
    if own is None or other is None or own < _WORTH * other:
        return {}
    return {VARIABLE: WITHOUT_AVX512}


def _has_avx512() -> bool:
    return "avx512f" in _processor_line("flags").split()


def _processor() -> str:
    return _processor_line("model name") + _processor_line("stepping")


def _processor_line(name: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith(name)), "")


def _seconds(extra: dict[str, str]) -> float | None:
    """A sort's time in a fresh process; None if it could not be taken."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROBE],
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return float(done.stdout) if done.returncode == 0 else None
