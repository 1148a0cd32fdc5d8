#!/usr/bin/env python3
"""Security check: read the artifact's bytes and judge them by allow-list, without loading them.

    content_check.py --artifact-id ID --name NAME [--type TYPE] --path FILE [--config JSON]

Prints one JSON object; exit code 0 allow, 1 warn, 2 block, 255 no verdict could be made.
``--config`` may hold ``allow`` (list of ``package.module.Name``), ``unknown_classes``
(``warn`` or ``block``) and ``script_timeout_ms``.
"""

import codecs
import os
import pickle
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "gate"), str(HERE.parent / "secmon_dagster" / "gate")]

import scanner  # noqa: E402
from check_arguments import Check, run_unheard  # noqa: E402


def rehearse() -> None:
    """For the process that checks are forked from: have prepared what Python prepares late."""
    codecs.lookup("cp437")
    example = os.memfd_create("rehearsal")
    os.write(example, pickle.dumps({"weights": [0.5, 1, None, "text"], "dtype": complex}))
    run_unheard(main, "--path", f"/proc/self/fd/{example}", "--size=100", "--config", "{}")
    os.close(example)


def main(arguments: list[str]) -> int:
    """Run the check; returns the exit code."""
    check = Check.parse(arguments, needs=("path",))
    config = check.config
    try:
        policy = scanner.load_policy(
            config.get("allow", ()), strict=config.get("unknown_classes") == "block"
        )
        budget = scanner.Budget(seconds=0.9 * config.get("script_timeout_ms", 60_000) / 1000)
        report = scanner.scan_path(check.path, policy=policy, budget=budget, name=check.file_name)
    except (OSError, ValueError, TypeError) as failed:
        return check.fail(f"{type(failed).__name__}: {failed}")
    return check.finish(
        [found.to_dict() for found in report.findings],
        report.recommendation,
        formats=report.formats,
        scanner_version=scanner.VERSION,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
