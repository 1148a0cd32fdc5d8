#!/usr/bin/env python3
"""Security check: is the artifact larger than what should be let through?

    size_limit_check.py --artifact-id ID --name NAME --size BYTES [--config JSON]

Warns above ``warn_bytes`` (default 1 GB) and blocks above ``block_bytes`` (default 10 GB), both
from ``--config``; the size of ``--path`` counts where ``--size`` is not given. Prints one JSON
object; exit code 0 allow, 1 warn, 2 block, 255 script error.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_arguments import Check, run_unheard

WARN_BYTES = 1_000_000_000
BLOCK_BYTES = 10_000_000_000


def rehearse() -> None:
    """For the process that checks are forked from: have prepared what Python prepares late."""
    run_unheard(main, "--size=100", "--config", "{}")


def main(arguments: list[str]) -> int:
    """Run the check; returns the exit code."""
    check = Check.parse(arguments)
    warn, block = (
        check.config.get("warn_bytes", WARN_BYTES), check.config.get("block_bytes", BLOCK_BYTES)
    )  # fmt: skip
    if not all(isinstance(bound, int) and bound >= 0 for bound in (warn, block)):
        return check.fail("warn_bytes and block_bytes are numbers of bytes")
    size = check.size
    if size is None and check.path is not None:
        try:
            size = Path(check.path).stat().st_size
        except OSError as missing:
            return check.fail(f"the size is not given and can't be read: {missing.strerror}")
    if size is None:
        return check.fail("--size is missing and there is no --path")
    if size < 0:
        return check.fail(f"--size is {size}; allowed: 0 and more")
    for level, bound in (("block", block), ("warn", warn)):
        if size > bound:
            message = f"{size} bytes are more than {bound}"
            return check.finish([{"level": level, "rule": "size", "message": message}], level)
    return check.finish([], "allow")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
