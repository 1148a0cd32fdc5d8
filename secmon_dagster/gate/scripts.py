"""Security scripts: found by name, fingerprinted, and told what to judge.

A script is a program: arguments in, one JSON object on stdout, exit code out. ``.py`` runs on our
Python, ``.js`` on node, anything else by its ``#!`` line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from secmon_dagster.gate.scanner import __file__ as scanner_file

_Stamp = tuple[str, int, int, int]
SCANNER_FOLDER = Path(scanner_file).resolve().parent


class ScriptMissingError(Exception):
    """No such script in the folder of scripts; the message is for people."""


class InterpreterMissingError(Exception):
    """The script's interpreter is not installed; the message is for people."""


@dataclass(frozen=True)
class Script:
    """A script that exists. ``digest`` covers it and what the bundled ones import; ``stamps`` are
    other ones after its files were written to or replaced, even by the same bytes."""

    name: str
    path: Path
    digest: str
    stamps: tuple[_Stamp, ...] = ()

    def command(self) -> list[str]:
        """Interpreter and script, to be followed by arguments.

        Raises:
            InterpreterMissingError: node (for ``.js``) or the interpreter of ``#!`` is missing.
            ScriptMissingError: neither a known extension nor an executable ``#!`` file.
        """
        if self.path.suffix == ".py":
            return [sys.executable, "-I", "-B", str(self.path)]
        if self.path.suffix in (".js", ".mjs", ".cjs"):
            node = shutil.which("node")
            if node is None:
                raise InterpreterMissingError("Node.js executable not found")
            return [node, str(self.path)]
        with self.path.open("rb") as file:
            first = file.readline(256)
        if not first.startswith(b"#!"):
            raise ScriptMissingError(
                f"Security script {self.name} has no known extension (.py, .js) and no #! line"
            )
        if not os.access(self.path, os.X_OK):
            raise ScriptMissingError(f"Security script {self.name} is not executable")
        words = first[2:].decode("utf-8", "replace").split()
        target = words[-1] if words and words[0].endswith("/env") and len(words) > 1 else words[0]
        if shutil.which(target) is None:
            raise InterpreterMissingError(f"Interpreter {target} of {self.name} not found")
        return [str(self.path)]


def find_script(name: str, folder: Path) -> Script:
    """The script called ``name`` in ``folder``; nothing outside of it.

    The documented names of the first scripts (``default-check.js``) find today's
    (``default_check.py``) where no file has the old name.

    Raises:
        ScriptMissingError: there is none.
    """
    missing = ScriptMissingError(f"Security script not found: {name}")
    if not name or "\0" in name or name.startswith("-"):
        raise missing
    real = os.path.realpath(folder)
    for candidate in (name, Path(name).stem.replace("-", "_") + ".py"):
        path = os.path.realpath(f"{real}/{candidate}")
        if os.path.commonpath((real, path)) == real and os.path.isfile(path):  # noqa: PTH113
            found, stamps = Path(path), stamps_of(path)
            return Script(found.name, found, _digest_of(stamps), stamps)
    raise missing


def stamps_of(path: str) -> tuple[_Stamp, ...]:
    """What can't stay the same when a script, or what the bundled ones share, is written to or
    replaced: nobody can set the time of change, as they can the one of modification."""
    files = [path]
    if path.endswith(".py"):
        files.append(f"{path.rpartition('/')[0]}/check_arguments.py")
    stamps = []
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116 - asked several times for each check
        except FileNotFoundError:
            continue
        stamps.append((file, status.st_ctime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


@lru_cache(maxsize=256)
def _digest_of(stamps: tuple[_Stamp, ...]) -> str:
    """SHA-256 over the script, what the bundled ones share, and the scanner they may import.

    Files of the folder are looked at each time, the scanner once a process: it is this program's
    own code, and the warm process holds it imported.
    """
    scanner = scanner_digest() if stamps[0][0].endswith(".py") else ""
    return _digest([Path(path) for path, *_ in stamps], scanner)


@cache
def scanner_digest() -> str:
    """SHA-256 over the scanner's code and allow-lists."""
    return _digest(sorted([*SCANNER_FOLDER.glob("*.py"), *SCANNER_FOLDER.glob("*/*.toml")]), "")


def _digest(files: list[Path], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def script_arguments(**values: str | int | None) -> list[str]:
    """``--key value`` for each value that is given.

    A value that begins with ``-`` is written ``--key=value``, so that no parser takes it for an
    option.
    """
    arguments: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        option, text = "--" + key.replace("_", "-"), str(value)
        arguments += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return arguments
