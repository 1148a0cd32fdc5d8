"""``python -m benchmarks.drift [SIDE…]``: ours against Evidently and NannyML, on the same data.

Each peer has an environment of its own, made with uv under ``.secmon/benchmarks`` unless
``SECMON_BENCHMARK_EVIDENTLY`` or ``SECMON_BENCHMARK_NANNYML`` name a Python that has it. All sides
run one after the other with the same numpy dispatch. A side's numbers are kept, so that the sides
may be run one by one (the slowest take minutes); those of this call are measured anew. Ends with
exit code 1 if a promised ratio is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.drift.data import NUMERIC
from secmon_dagster.drift.fast_sort import fastest_sort_environment
from secmon_dagster.settings import get_settings

PEERS = {
    # As of this writing neither runs as installed: pandas 3 and an undeclared statsmodels.
    "evidently": ["evidently==0.7.23", "pandas<3"],
    "nannyml": ["nannyml==0.13.1", "statsmodels"],
}
SIDES = ("ours", "evidently_functions", "evidently_report", "nannyml")


def python_of(side: str) -> str:
    """A Python that has what the side needs."""
    if side == "ours":
        return sys.executable
    peer = side.partition("_")[0]
    given = os.environ.get(f"SECMON_BENCHMARK_{peer.upper()}")
    if given:
        return given
    home = get_settings().home / "benchmarks" / peer
    python = home / "bin" / "python"
    if not python.exists():
        # The same interpreter for all sides: builds differ in speed.
        same = str(getattr(sys, "_base_executable", sys.executable))
        subprocess.run(["uv", "venv", "-q", "--python", same, str(home)], check=True)
        subprocess.run(
            ["uv", "pip", "install", "-q", "--python", str(python), *PEERS[peer]], check=True
        )
    return str(python)


def measure(side: str, extra: dict[str, str]) -> dict[str, float]:
    """The side's numbers."""
    environment = {
        **os.environ,
        **extra,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "NML_DISABLE_USAGE_LOGGING": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [python_of(side), str(Path(__file__).with_name("side.py")), side],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@dataclass(frozen=True)
class Promise:
    """A ratio of two sides' numbers and what it must reach."""

    name: str
    ratio: float
    promised: float

    def __str__(self) -> str:
        verdict = "ok" if self.ratio >= self.promised else "MISSED"
        return f"{self.name}: {self.ratio:.2f} (promised {self.promised:g}) {verdict}"


def promises(found: dict[str, dict[str, float]]) -> list[Promise]:
    """What the sides measured so far say."""
    if "ours" not in found:
        return []
    ours = found["ours"]
    judged = [
        Promise("2.5 sorts / all four", 2.5 * ours["sort"] / ours["all_four"], 1.0),
        Promise("80 MB / our growth", 80 / max(ours["growth_mb"], 1e-3), 1.0),
    ]
    if theirs := found.get("evidently_functions"):
        ratio = theirs["all_four"] / ours["all_four"]
        judged.append(Promise("all four: Evidently's functions / ours", ratio, 5.0))
    if theirs := found.get("evidently_report"):
        ratio = theirs["report_psi"] / ours["psi"]
        judged.append(Promise("PSI: Evidently's Report / ours", ratio, 100.0))
    if theirs := found.get("nannyml"):
        ratio = (theirs["fit"] + theirs["calculate"]) / ours["all_four"]
        judged.append(Promise("NannyML's fit and calculate / ours, all four", ratio, 2.5))
    return judged


def main(chosen: list[str]) -> int:
    unknown = sorted(set(chosen) - set(SIDES))
    if unknown:
        print(f"no side {unknown[0]}; there are {', '.join(SIDES)}")
        return 2
    dispatch = fastest_sort_environment()
    kept = get_settings().home / "benchmarks" / f"drift-{NUMERIC}.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    print(f"{NUMERIC} numeric columns; numpy dispatch: {dispatch or 'its own choice'}")
    for side in chosen or SIDES:
        found[side] = measure(side, dispatch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
        print(side, json.dumps({k: round(v, 3) for k, v in found[side].items()}), flush=True)
    judged = promises(found)
    for promise in judged:
        print(promise)
    return int(any(promise.ratio < promise.promised for promise in judged))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
