"""What the bundled checks share: their arguments, their JSON, their exit codes."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

ALLOW, WARN, BLOCK, ERROR = 0, 1, 2, 255
EXIT_CODES = {"allow": ALLOW, "warn": WARN, "block": BLOCK}
MAX_JSON = 9000
OPTIONS = ("artifact-id", "name", "type", "size", "path", "sha256", "url", "config")


@dataclass
class Check:
    """One call of a check: what the gate said about the artifact."""

    artifact_id: str
    name: str
    type: str
    size: int | None
    path: str | None
    sha256: str | None
    url: str | None
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, arguments: list[str], *, needs: tuple[str, ...] = ()) -> "Check":
        """Read the arguments every check gets; unknown ones are an error.

        Each value may be given as ``--name VALUE`` or ``--name=VALUE``; the gate uses the second
        form, so that a value which begins with ``-`` stays a value.
        """
        given = _options(arguments)
        for needed in ("artifact-id", "name", *needs):
            if needed not in given:
                _wrong_call(f"--{needed} is missing")
        size = given.get("size")
        try:
            config = json.loads(given.get("config", "{}"))
            number = None if size is None else int(size)
        except ValueError as broken:
            _wrong_call(f"--config is not JSON or --size no number: {broken}")
        if not isinstance(config, dict):
            _wrong_call("--config is not a JSON object")
        return cls(
            given["artifact-id"], given["name"], given.get("type", ""), number, given.get("path"),
            given.get("sha256"), given.get("url"), config,
        )  # fmt: skip

    @property
    def file_name(self) -> str:
        """The name whose extension counts: the file's own, else the artifact's."""
        own = Path(self.path or "").name
        return own if "." in own else self.name or own

    def finish(self, findings: list[dict[str, Any]], recommendation: str, **more: Any) -> int:
        """Print the result; returns the exit code of the recommendation."""
        result = {
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "artifact_id": self.artifact_id,
            "findings": findings,
            "recommendation": recommendation,
            **more,
        }
        indent = 2 if sys.stdout.isatty() else None  # without, it is written in C
        text = json.dumps(result, indent=indent)
        while len(text) > MAX_JSON and len(findings) > 1:
            result["findings_left_out"] = int(result.get("findings_left_out", 0)) + 1
            findings = result["findings"] = findings[:-1]
            text = json.dumps(result, indent=indent)
        print(text)
        return EXIT_CODES[recommendation]

    def fail(self, message: str) -> int:
        """Print why no verdict could be made; returns the exit code of a script error."""
        print(json.dumps({"artifact_id": self.artifact_id, "error": message, "findings": []}))
        return ERROR


def _options(arguments: list[str]) -> dict[str, str]:
    """``--name VALUE`` and ``--name=VALUE`` by name; ``--id`` is ``--artifact-id``.

    By hand: argparse takes twice as long as a scan.
    """
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, sign, value = argument.removeprefix("--").partition("=")
        name = "artifact-id" if name == "id" else name
        if not argument.startswith("--") or name not in OPTIONS:
            _wrong_call(f"unknown argument {argument[:80]!r}")
        if not sign:
            value = next(rest, "--")
            if value.startswith("--"):
                _wrong_call(f"--{name} has no value")
        given[name] = value
    return given


def _wrong_call(message: str) -> NoReturn:
    """A wrong call is a script error, never a verdict."""
    print(json.dumps({"error": message, "findings": []}))
    sys.exit(ERROR)


def run_unheard(main: Callable[[list[str]], int], *arguments: str) -> None:
    """Run a check for nothing: its rehearsal."""
    with contextlib.redirect_stdout(io.StringIO()):
        main(["--artifact-id", "rehearsal", "--name=rehearsal", *arguments])
