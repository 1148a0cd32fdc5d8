"""Ratios of the audit chain to bare PostgreSQL, in one run on one server, same row and indexes.

``python -m benchmarks.audit`` needs nothing running: it starts a server of its own in a temporary
folder. ``--quick`` takes tenths of the sizes, ``--only`` some of the sections. Absolute figures are
this machine's; ratios travel.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.audit import seed_design
from benchmarks.audit.appending import appends, bulk, business, processes
from benchmarks.audit.measuring import RESULTS, report
from benchmarks.audit.reading import trees, verification
from secmon_dagster import database
from secmon_dagster.database import embedded
from secmon_dagster.settings import get_settings


def seed(seconds: float) -> None:
    for writers in (1, 8):
        rate, broken = seed_design.run(writers, seconds)
        report(f"the common design (ORM: read last, hash, insert), {writers} writers",
               f"{rate:.0f}/s, {broken:.0%} of links broken", "")  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", nargs="+", default=[], metavar="SECTION")
    chosen = arguments.parse_args()
    seconds, many = (0.7, 100_000) if chosen.quick else (3.0, 1_000_000)
    sections: dict[str, Callable[[], None]] = {
        "seed": lambda: seed(seconds),
        "trees": trees,
        "appends": lambda: appends(seconds),
        "processes": lambda: processes(seconds),
        "business": lambda: business(seconds),
        "bulk": lambda: bulk(20_000),
        "verification": lambda: verification(many),
    }
    if unknown := set(chosen.only) - set(sections):
        arguments.error(f"no section {', '.join(unknown)}; there are {', '.join(sections)}")
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        os.environ["SECMON_HOME"] = home
        os.environ.pop("SECMON_DATABASE_URL", None)
        get_settings.cache_clear()
        embedded.start()
        database.migrate()
        try:
            for section in chosen.only or sections:
                sections[section]()
        finally:
            database.close_pools()
            embedded.stop()
    missed = [what for what, _, _, mark in RESULTS if mark == "MISSED"]
    print(f"\n{len(missed)} of {sum(bool(m) for *_, m in RESULTS)} limits missed: {missed}")


if __name__ == "__main__":
    main()
