"""Which of numpy's sorts is the fast one on this machine, found by trying.

On some processors (AMD Zen 4) numpy's AVX-512 sort is five times slower than its AVX2 sort, because
compressing stores to memory are microcoded there. numpy chooses when it is imported, so the choice
is made in two short processes and handed on as an environment variable.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any("avx512f" in line for line in lines if line.startswith("flags"))


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
