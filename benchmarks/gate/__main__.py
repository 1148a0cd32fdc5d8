"""Latency of a check, throughput of a scan, decisions and downloads, and what other scanners say.

``python -m benchmarks.gate``; ``--peers`` installs picklescan, modelscan and fickling into virtual
environments of their own under a temporary folder and runs them on the corpus of the tests.
"""

from __future__ import annotations

import hashlib
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.gate import served
from secmon_dagster.gate import run_security_check
from secmon_dagster.gate.scanner import scan_path
from tests.gate.scanner import benign, benign_variants, hostile, hostile_loaders, hostile_variants

PEERS = {
    "picklescan": ("picklescan==1.0.5", ["picklescan", "-p"]),
    "modelscan": ("modelscan==0.8.8", ["modelscan", "-p"]),
    # Its release imports typing_extensions without asking for it.
    "fickling": ("fickling==0.1.12", ["fickling", "--check-safety"]),
}


def milliseconds(act: Callable[[], object], rounds: int = 60) -> list[float]:
    """Sorted times of ``act``, the first call left out."""
    act()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        act()
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)


def show(what: str, times: list[float], base: float | None = None, goal: str = "") -> float:
    middle = statistics.median(times)
    ratio = "" if base is None else f"  {middle / base:5.2f} x"
    print(f"{what:<54} min {times[0]:8.2f}  p50 {middle:8.2f} ms{ratio}  {goal}", flush=True)
    return middle


def latency(folder: Path) -> None:
    features, target = make_classification(200, 8, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, target)
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    bare = show("python -c pass", milliseconds(
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))  # fmt: skip
    show("in-process scan of a logistic regression", milliseconds(lambda: scan_path(str(path))))
    show("warm check, boxed, end to end", milliseconds(
        lambda: run_security_check("a", "m", "model", script_name="content_check.py", path=path)),
        bare, "goal: 5 ms")  # fmt: skip
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "own.py").write_text('print(\'{"findings": [], "recommendation": "allow"}\')')
    show("a custom Python script, boxed", milliseconds(
        lambda: run_security_check("a", "m", script_name="own.py", scripts_dir=scripts)),
        bare, "goal: 1.5 x")  # fmt: skip


def throughput(folder: Path) -> None:
    array = np.random.default_rng(0).random(16_000_000)
    size = array.nbytes / 1e6
    for suffix, save in (
        ("npy", np.save),
        ("joblib", lambda path, data: joblib.dump(data, path)),
        ("pkl", lambda path, data: Path(path).write_bytes(pickle.dumps(data, 5))),
        ("npz", np.savez),
    ):
        path = folder / f"array.{suffix}"
        save(str(path), array)

        def hashed(path: Path = path) -> None:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

        base = statistics.median(milliseconds(hashed, 5))
        middle = statistics.median(milliseconds(lambda path=path: scan_path(str(path)), 5))
        print(
            f"scan of a {size:.0f} MB array in .{suffix:<8} {size / middle:8.2f} GB/s, "
            f"SHA-256 {size / base:5.2f} GB/s, ratio {base / middle:6.2f}  goal: 0.5",
            flush=True,
        )
        path.unlink()


def corpus(folder: Path) -> tuple[list[Path], list[Path]]:
    """The hostile and the benign files of the tests, on disk."""
    written: tuple[list[Path], list[Path]] = ([], [])
    files = (
        [
            case[1:]
            for module in (hostile, hostile_variants, hostile_loaders)
            for case in module.corpus()
        ],
        [*benign.data(), *benign_variants.files(), *benign.models()],
    )
    for place, kind in enumerate(("hostile", "benign")):
        for number, (name, data) in enumerate(files[place]):
            path = folder / kind / str(number) / name
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            written[place].append(path)
    return written


def ours(path: Path) -> bool:
    return scan_path(str(path)).recommendation == "block"


def peer(command: list[str]) -> Callable[[Path], bool]:
    def flags(path: Path) -> bool:
        done = subprocess.run([*command, str(path)], capture_output=True, timeout=120, check=False)
        return done.returncode == 1

    return flags


def compare(folder: Path, with_peers: bool) -> None:
    bad, good = corpus(folder)
    scanners: dict[str, Callable[[Path], bool]] = {"ours": ours}
    for name, (requirement, words) in PEERS.items() if with_peers else ():
        home = folder / f"venv-{name}"
        venv.create(home, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, requirement, "typing_extensions", "setuptools"], check=True)
        scanners[name] = peer([str(home / "bin" / words[0]), *words[1:]])
    sample = good[:: max(1, len(good) // 60)]
    for name, flags in scanners.items():
        begin = time.perf_counter()
        caught = sum(map(flags, bad))
        stopped = sum(map(flags, good if name == "ours" else sample))
        checked = len(good) if name == "ours" else len(sample)
        print(
            f"{name:<12} lets pass {len(bad) - caught:3} of {len(bad)} hostile, "
            f"stops {stopped:3} of {checked} ordinary files  ({time.perf_counter() - begin:.1f} s)",
            flush=True,
        )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="secmon-gate-bench-") as name:
        folder = Path(name)
        latency(folder)
        throughput(folder)
        with served.platform(folder / "home"):
            served.decisions(
                folder / "model.pkl",
                lambda what, act, goal: show(what, milliseconds(act), goal=goal),
            )
            served.downloads(folder, folder / "model.pkl")
        compare(folder, "--peers" in sys.argv)


if __name__ == "__main__":
    main()
