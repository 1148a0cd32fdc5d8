"""What the bundled checks share: their arguments, their JSON, their exit codes."""

import argparse
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

ALLOW, WARN, BLOCK, ERROR = 0, 1, 2, 255
EXIT_CODES = {"allow": ALLOW, "warn": WARN, "block": BLOCK}
MAX_JSON = 9000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong call is a script error, never a verdict (argparse itself would exit with 2)."""
        print(json.dumps({"error": message, "findings": []}))
        sys.exit(ERROR)


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
        parser = _Parser(allow_abbrev=False)
        parser.add_argument("--artifact-id", "--id", required=True)
        parser.add_argument("--name", required=True)
        parser.add_argument("--type", default="")
        parser.add_argument("--size", type=int)
        for option in ("--path", "--sha256", "--url"):
            parser.add_argument(option)
        parser.add_argument("--config", default="{}")
        given = parser.parse_args(arguments)
        try:
            config = json.loads(given.config)
        except ValueError as broken:
            parser.error(f"--config is not JSON: {broken}")
        if not isinstance(config, dict):
            parser.error("--config is not a JSON object")
        check = cls(
            given.artifact_id, given.name, given.type, given.size, given.path, given.sha256,
            given.url, config,
        )  # fmt: skip
        for needed in needs:
            if getattr(check, needed) is None:
                parser.error(f"--{needed} is missing")
        return check

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
        text = json.dumps(result, indent=2)
        while len(text) > MAX_JSON and len(findings) > 1:
            result["findings_left_out"] = int(result.get("findings_left_out", 0)) + 1
            findings = result["findings"] = findings[:-1]
            text = json.dumps(result, indent=2)
        print(text)
        return EXIT_CODES[recommendation]

    def fail(self, message: str) -> int:
        """Print why no verdict could be made; returns the exit code of a script error."""
        print(json.dumps({"artifact_id": self.artifact_id, "error": message, "findings": []}))
        return ERROR
