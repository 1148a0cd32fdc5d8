"""Coverage-guided fuzzing of the scanner: ``python -m tests.gate.scanner.fuzz WORK [libFuzzer…]``.

Needs ``atheris``, which is no dependency of the project: ``pip install atheris``. WORK is filled
with the hostile and the ordinary files first, then grows by each input that reached new code. What
is kept in ``fuzz_corpus`` reaches every line of the scanner that WORK did after an hour and
4.3 million inputs; the default tests replay it.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["secmon_dagster.gate.scanner"]):
    from tests.gate.scanner.fuzz_target import CORPUS, as_input, run_input

from tests.gate.scanner import benign, hostile

MAX_SEED = 4096
MEMBERS = {".pkl": (0, 1, 2, 6), ".npy": (0, 5), ".json": (0, 3, 4)}


def seed(folder: Path) -> None:
    """Write the small files of both corpora, plain and inside containers, and what was kept."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [(name, data) for _, name, data in hostile.corpus()] + list(benign.data())
    inputs = [
        as_input(name, data, wrapper)
        for name, data in named
        if len(data) <= MAX_SEED
        for wrapper in MEMBERS.get(Path(name).suffix, (0,))
    ]
    inputs += [path.read_bytes() for path in CORPUS.glob("*")]
    for chosen in inputs:
        (folder / sha256(chosen).hexdigest()[:16]).write_bytes(chosen)


def main() -> None:
    work = Path(sys.argv[1])
    if not any(argument.startswith("-merge") for argument in sys.argv):
        seed(work)
    atheris.Setup(sys.argv, run_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
