"""A scrape with many events behind it, and what the exporter costs between scrapes.

    SECMON_HOME=/tmp/bench python -m benchmarks.telemetry [EVENTS, default 10,000,000]

Fills ``vecsec_events`` of the database in use: point SECMON_HOME at an empty folder.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import httpx

from secmon_dagster import database
from secmon_dagster.database import Role
from secmon_dagster.telemetry import Exporter


def fill(events: int) -> None:
    with database.connect(Role.SERVICE, autocommit=True) as connection:
        for start in range(0, events, 500_000):
            connection.execute(
                """INSERT INTO vecsec_events (kind, type, verdict, duration, similarity)
                   SELECT 'analysis', 'jailbreak', 'flag', n %% 10 / 1000.0, n %% 100 / 100.0
                     FROM generate_series(1, %s) n""",
                [min(500_000, events - start)],
            )


def main(events: int) -> None:
    database.embedded.start()
    database.migrate()
    fill(events)
    exporter = Exporter("127.0.0.1", 0, interval=3600)
    started = time.monotonic()
    exporter.collector.refresh()
    catching_up = time.monotonic() - started
    url = f"http://127.0.0.1:{exporter.start()}/metrics"
    scrapes, idle = [], []
    for _ in range(50):
        started = time.monotonic()
        text = httpx.get(url).text
        scrapes.append((time.monotonic() - started) * 1000)
    for _ in range(20):
        started = time.process_time()
        exporter.collector.refresh()
        idle.append(time.process_time() - started)
    exporter.stop()
    counted = next(line for line in text.splitlines() if line.startswith("vecsec_inference_total"))
    result = {
        "events": events,
        "counted": float(counted.split()[1]),
        "first_count_s": catching_up,
        "scrape_p50_ms": statistics.median(scrapes),
        "scrape_max_ms": max(scrapes),
        "idle_collect_cpu_ms": statistics.median(idle) * 1000,
        "cpu_percent_at_15_s": statistics.median(idle) / 15 * 100,
    }
    print(json.dumps(result, indent=2))
    database.close_pools()
    database.embedded.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
