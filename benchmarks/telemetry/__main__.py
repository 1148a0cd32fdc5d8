"""A scrape with many events behind it, and what the exporter costs between scrapes.

    python -m benchmarks.telemetry [EVENTS, default 10,000,000]

Needs nothing running: it starts a server of its own in a temporary folder (2 GB for 10 million).
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
import tempfile
import time

import psutil

from secmon_dagster import database
from secmon_dagster.database import Role, embedded
from secmon_dagster.settings import get_settings
from secmon_dagster.telemetry import Exporter
from secmon_dagster.telemetry.exporter import INTERVAL_SECONDS

STEPS, JOBS, OPS = 100_000, 25, 6
SCRAPE_EVERY = 15.0


def fill(events: int) -> None:
    with database.connect(Role.SERVICE, autocommit=True) as connection:
        for start in range(0, events, 500_000):
            connection.execute(
                """INSERT INTO vecsec_events (kind, type, verdict, duration, similarity)
                   SELECT 'analysis', 'jailbreak', 'flag', n %% 10 / 1000.0, n %% 100 / 100.0
                     FROM generate_series(1, %s) n""",
                [min(500_000, events - start)],
            )
        connection.execute(
            """INSERT INTO step_usage (run_id, step_key, attempt, job_name, op_name, enforcement,
                 limits, outcome, wall_seconds, cpu_seconds, throttled_seconds, peak_memory_bytes,
                 ended_at)
               SELECT 'run-' || n, 'step', 1, 'job_' || n %% %(jobs)s, 'op_' || n %% %(ops)s,
                      'cgroup2', '{}', 'success', n %% 600, n %% 60, 0,
                      10000000 + n %% 999 * 1000000,
                      now() - n * interval '1 s'
                 FROM generate_series(1, %(steps)s) n""",
            {"jobs": JOBS, "ops": OPS, "steps": STEPS},
        )
        connection.execute("ANALYZE")


def cpu_seconds() -> float:
    """CPU time so far of this process and of the database's."""
    server = psutil.Process(embedded.running_pid())
    times = [each.cpu_times() for each in (psutil.Process(), server, *server.children())]
    return sum(each.user + each.system for each in times)


def main(events: int) -> None:
    started = time.monotonic()
    fill(events)
    filling = time.monotonic() - started
    exporter = Exporter("127.0.0.1", 0, interval=3600)
    started, longest, counted = time.monotonic(), 0.0, 0.0
    port = exporter.start()
    scraper = http.client.HTTPConnection("127.0.0.1", port)

    def scrape() -> str:
        scraper.request("GET", "/metrics")
        return scraper.getresponse().read().decode()

    while counted < events:
        before = time.monotonic()
        exporter.collector.refresh()
        longest = max(longest, time.monotonic() - before)
        line = next(x for x in scrape().splitlines() if x.startswith("vecsec_inference_total "))
        counted = float(line.split()[1])
    catching_up = time.monotonic() - started
    scrapes = []
    for _ in range(100):
        before = time.monotonic()
        text = scrape()
        scrapes.append((time.monotonic() - before) * 1000)
    # Ten minutes' work, one after the other, of the exporter and of the database.
    rounds, before = 20, cpu_seconds()
    for _ in range(rounds):
        for _ in range(round(2 * SCRAPE_EVERY / INTERVAL_SECONDS)):
            exporter.collector.refresh()
        for _ in range(2):
            scrape()
    percent = (cpu_seconds() - before) / (2 * rounds * SCRAPE_EVERY) * 100
    exporter.stop()
    result = {
        "events": events,
        "counted": counted,
        "series": sum(not line.startswith("#") for line in text.splitlines()),
        "filling_s": filling,
        "catching_up_s": catching_up,
        "longest_collection_s": longest,
        "scrape_p50_ms": statistics.median(scrapes),
        "scrape_max_ms": max(scrapes),
        "cpu_percent_at_15_s": percent,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="secmon", ignore_cleanup_errors=True) as folder:
        os.environ["SECMON_HOME"] = f"{folder}/h"
        os.environ.pop("SECMON_DATABASE_URL", None)
        get_settings.cache_clear()
        with embedded.hold():
            database.migrate()
            main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
            database.close_pools()
