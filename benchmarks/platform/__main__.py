"""How long a person waits: import, embedded server, `make demo`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECMON = str(Path(sys.executable).parent / "secmon")


def timed(command: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def report(what: str, seconds: list[float], goal: str) -> None:
    print(
        f"{what:<44} min {min(seconds):6.2f} s, median {statistics.median(seconds):6.2f} s; {goal}",
        flush=True,
    )


def main() -> None:
    python = [sys.executable, "-c"]
    peer = [timed([*python, "import dagster"], dict(os.environ)) for _ in range(5)]
    ours = [
        timed([*python, "import secmon_dagster.definitions"], dict(os.environ)) for _ in range(5)
    ]
    report("import dagster", peer, "")
    report(
        "import secmon_dagster.definitions",
        ours,
        f"goal 2 s; {statistics.median(ours) / statistics.median(peer):.2f} × import dagster",
    )
    starts, demos = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="secmon") as folder:
            environment = {**os.environ, "SECMON_HOME": str(Path(folder) / "h")}
            environment.pop("SECMON_DATABASE_URL", None)
            starts.append(timed([SECMON, "db", "start"], environment))
            timed([SECMON, "db", "stop"], environment)
            demos.append(timed([SECMON, "demo"], environment))
    report("secmon db start (initdb, start, migrate)", starts, "")
    report("secmon demo", demos, "goal 60 s on 2 cores")


if __name__ == "__main__":
    main()
