"""What is measured with: the row, the peer that inserts it bare, callers, the report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg

from secmon_dagster import database
from secmon_dagster.audit.entry import FIELDS, new_entry_id
from secmon_dagster.database import Role

ENTRY = {
    "action": "UPDATE", "actor": "data_scientist_1", "resource_type": "model",
    "resource_id": "model_prod_v2", "data": {"config": {"threshold": 0.85}},
    "details": {"reason": "Threshold optimization"},
}  # fmt: skip
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
VALUES = ", ".join(["%s"] * len(FIELDS))
RESULTS: list[tuple[str, str, str, str]] = []


def report(what: str, measured: str, limit: str, met: bool | None = None) -> None:
    mark = "" if met is None else "met" if met else "MISSED"
    RESULTS.append((what, measured, limit, mark))
    print(f"{what:<58} {measured:<58} {limit:<24} {mark}", flush=True)


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000


def callers(count: int, seconds: float, make: Callable[[], Callable[[], object]]) -> list[float]:
    """Latencies of all calls of ``count`` threads within a time; each has a callable of its own."""
    times: list[list[float]] = [[] for _ in range(count)]
    ready = threading.Barrier(count)

    def work(number: int) -> None:
        call = make()
        call()
        ready.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            call()
            times[number].append(time.perf_counter() - began)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [moment for list_ in times for moment in list_]


def row(seq: int) -> list[object]:
    return [seq, bytes(32), "2026-01-01", "x", new_entry_id(), "info", None, ENTRY["action"],
            ENTRY["actor"], ENTRY["resource_type"], ENTRY["resource_id"], None, None,
            '{"config":{"threshold":0.85}}', "a" * 64, '{"reason":"Threshold optimization"}',
            bytes(32)]  # fmt: skip


def bare_table(admin: psycopg.Connection) -> None:
    admin.execute("DROP TABLE IF EXISTS bare; DROP SEQUENCE IF EXISTS bare_seq")
    admin.execute("CREATE TABLE bare (LIKE secmon.audit_entries INCLUDING ALL)")
    admin.execute("CREATE SEQUENCE bare_seq")


def bare_insert() -> Callable[[], object]:
    connection = database.connect(Role.ADMIN, autocommit=True)
    connection.prepare_threshold = 0
    statement = f"INSERT INTO bare ({COLUMNS}) VALUES (nextval('bare_seq'), {VALUES[4:]})"
    return lambda: connection.execute(statement, row(0)[1:])
