"""``python -m benchmarks.executor [PART …]``: steps in boxes, side by side with Dagster's own.

Parts: chain, parallel, mapped, stored (on an embedded PostgreSQL); memory, deadline, thousand,
overhead (without Dagster). Each takes less than two minutes. Ratios count; milliseconds depend on
the machine and on who else uses it. Ends with exit code 1 if a promise is missed.
"""

from __future__ import annotations

import os
import sys
import tempfile

from benchmarks.executor import boxes, steps
from benchmarks.executor.report import missed

PARTS = {
    part.__name__: part
    for part in (
        *(steps.chain, steps.parallel, steps.mapped, steps.stored),
        *(boxes.memory, boxes.deadline, boxes.thousand, boxes.overhead),
    )
}


def main(wanted: list[str]) -> int:
    if unknown := sorted(set(wanted) - PARTS.keys()):
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="secmon") as home:
        os.environ["SECMON_HOME"] = home
        for name in wanted or PARTS:
            PARTS[name]()
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
