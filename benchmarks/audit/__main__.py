"""Ratios of the audit chain to bare PostgreSQL, in one run on one server, same row and indexes.

``python -m benchmarks.audit`` needs nothing running: it starts a server of its own in a temporary
folder. ``--quick`` takes tenths of the sizes. Absolute figures are this machine's; ratios travel.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pymerkle

from benchmarks.audit import seed_design
from secmon_dagster import database
from secmon_dagster.audit import HashChainAuditLogger, enqueue
from secmon_dagster.audit.entry import FIELDS, new_entry_id
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.database import Role, embedded
from secmon_dagster.settings import get_settings

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


def appends(seconds: float) -> None:
    log = HashChainAuditLogger()
    with database.connect(Role.ADMIN, autocommit=True) as admin:
        for count, limit in ((1, None), (8, None), (64, 0.6)):
            ratios, ours, bare = [], [], []
            for _ in range(3):
                bare_table(admin)
                bare = callers(count, seconds, bare_insert)
                ours = callers(count, seconds, lambda: lambda: log.append_entry(**ENTRY))
                ratios.append(len(ours) / len(bare))
            ratio = statistics.median(ratios)
            p50, p99 = quantile(ours, 0.5), quantile(ours, 0.99)
            measured = (
                f"{len(ours) / seconds:.0f}/s = {ratio:.2f} x bare; "
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
            )
            if count == 1:
                times = p50 / quantile(bare, 0.5)
                report(
                    "append, 1 caller", f"{measured}; p50 {times:.2f} x", "p50 <= 2 x", times <= 2
                )
            elif limit:
                good = ratio >= limit and p99 <= 10 * p50
                report(f"append, {count} callers", measured, f">= {limit} x, p99 <= 10 p50", good)
            else:
                report(f"append, {count} callers", measured, "")
    log.close()


PROCESS = """
import sys, threading, time
from benchmarks.audit.__main__ import ENTRY, bare_insert, callers
from secmon_dagster.audit import HashChainAuditLogger
log = HashChainAuditLogger()
make = bare_insert if sys.argv[1] == "bare" else lambda: lambda: log.append_entry(**ENTRY)
log.head(); print("ready", flush=True); sys.stdin.readline()
print(len(callers(16, float(sys.argv[2]), make)))
"""


def processes(seconds: float) -> None:
    done = {}
    for kind in ("bare", "chain"):
        running = [
            subprocess.Popen([sys.executable, "-c", PROCESS, kind, str(seconds)], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)
        ]  # fmt: skip
        for process in running:
            process.stdout.readline()
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        done[kind] = sum(int(process.stdout.read()) for process in running)
    ratio = done["chain"] / done["bare"]
    measured = f"{done['chain'] / seconds:.0f}/s = {ratio:.2f} x bare"
    report("append, 4 processes x 16 threads", measured, ">= 0.5 x", ratio >= 0.5)


def bulk(count: int) -> None:
    log = HashChainAuditLogger()
    drafts = [ENTRY] * count
    with database.connect(Role.ADMIN, autocommit=True) as admin:
        bare_table(admin)
        rows = [row(number + 1) for number in range(count)]
        began = time.perf_counter()
        statement = f"COPY bare ({COLUMNS}) FROM STDIN"
        with admin.cursor().copy(statement) as copy:
            for values in rows:
                copy.write_row(values)
        bare = time.perf_counter() - began
    began = time.perf_counter()
    log.append_entries(drafts)
    ours = time.perf_counter() - began
    measured = f"{count / ours:.0f}/s = {bare / ours:.2f} x COPY"
    report(f"bulk append of {count:,}", measured, ">= 0.6 x", bare / ours >= 0.6)
    log.close()


def business(seconds: float) -> None:
    """A 5 ms business transaction at 8 clients, with and without an audit entry in it."""
    log = HashChainAuditLogger()

    def make(audited: bool) -> Callable[[], Callable[[], object]]:
        def build() -> Callable[[], object]:
            connection = database.connect(Role.SERVICE)

            def act() -> None:
                connection.execute("SELECT pg_sleep(0.005)")
                if audited:
                    enqueue(connection, **ENTRY)
                connection.commit()

            return act

        return build

    ratios = []
    for _ in range(3):
        plain = callers(8, seconds, make(False))
        audited = callers(8, seconds, make(True))
        while log.sequence(10_000):
            pass
        ratios.append(len(audited) / len(plain))
    ratio = statistics.median(ratios)
    report(
        "5 ms business transaction, 8 clients", f"{ratio:.2f} x without", ">= 0.9 x", ratio >= 0.9
    )
    log.close()


def verification(count: int) -> None:
    log = HashChainAuditLogger()
    while (missing := count - log.head().seq) > 0:
        log.append_entries([ENTRY] * min(missing, 50_000))
    size = log.head().seq

    def reading() -> None:
        with log.store.snapshot() as snapshot:
            for _ in snapshot.rows(1, size):
                pass

    read, verified = [], []
    for _ in range(3):
        began = time.perf_counter()
        reading()
        read.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert log.verification().verdict == "valid"
        verified.append(time.perf_counter() - began)
    ratio = statistics.median(read) / statistics.median(verified)
    rate = size / statistics.median(verified)
    report(f"verify {size:,}", f"{rate:,.0f}/s = {ratio:.2f} x COPY read", ">= 0.4 x", ratio >= 0.4)
    report("verify, entries a second on 2 cores", f"{rate:,.0f}/s", ">= 400,000/s", rate >= 400_000)
    program = (
        "import resource; from secmon_dagster.audit import HashChainAuditLogger as L;"
        "L().verification(); r = resource;"
        "print(r.getrusage(r.RUSAGE_SELF).ru_maxrss, r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    peak = sum(map(int, output.stdout.split())) / 1024
    report(
        f"verify {size:,}, peak memory of all processes", f"{peak:.0f} MB", "< 200 MB", peak < 200
    )
    log.checkpoint()
    times = []
    for more in (100, 1000, 10_000):
        log.append_entries([ENTRY] * more)
        began = time.perf_counter()
        log.verification(since_checkpoint=True)
        times.append((time.perf_counter() - began) * 1000)
        log.checkpoint()
    report("verify since the checkpoint: 100, 1,000, 10,000 new",
           ", ".join(f"{t:.0f} ms" for t in times), "grows with what is new")  # fmt: skip
    flat(log)
    log.close()


def flat(log: HashChainAuditLogger) -> None:
    times = []
    for _ in range(300):
        began = time.perf_counter()
        log.append_entry(**ENTRY)
        times.append(time.perf_counter() - began)
    large = quantile(times, 0.5)
    with (
        tempfile.TemporaryDirectory() as folder,
        database.connect(Role.ADMIN, autocommit=True) as c,
    ):
        c.execute("DROP DATABASE IF EXISTS small")
        c.execute("CREATE DATABASE small")
        url = database.database_url().replace("/secmon?", "/small?")
        small_log, times = HashChainAuditLogger(url), []
        small_log.append_entries([ENTRY] * 1000)
        for _ in range(300):
            began = time.perf_counter()
            small_log.append_entry(**ENTRY)
            times.append(time.perf_counter() - began)
        assert folder
    small_log.close()
    ratio = large / quantile(times, 0.5)
    measured = f"{quantile(times, 0.5):.2f} -> {large:.2f} ms p50 ({ratio:.2f} x)"
    report("append at 1,000 and at the largest size", measured, "flat (<= 1.5 x)", ratio <= 1.5)
    log.append_entries([ENTRY | {"actor": "rare"}] * 1000)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert len(log.get_actor_trail("rare")) == 1000
        times.append(time.perf_counter() - began)
    fast = quantile(times, 0.5)
    report("actor query of 1,000 rows", f"{fast:.1f} ms", "<= 5 ms", fast <= 5)
    head = log.head().seq
    times = []
    for _ in range(5):
        began = time.perf_counter()
        log.export_to(lambda _: None, "csv", first_seq=head - 9_999)
        times.append(time.perf_counter() - began)
    total = quantile(times, 0.5)
    with log.store.snapshot() as snapshot:
        began = time.perf_counter()
        for _ in snapshot.csv(head - 9_999, head):
            pass
        rows_only = (time.perf_counter() - began) * 1000
    report("CSV export of 10,000: rows alone / with the tree before them",
           f"{rows_only:.0f} / {total:.0f} ms", "<= 50 ms", rows_only <= 50)  # fmt: skip


def trees() -> None:
    leaves = [os.urandom(32) for _ in range(100_000)]
    began = time.perf_counter()
    Frontier().extend(leaves)
    ours = len(leaves) / (time.perf_counter() - began)
    peer = pymerkle.InmemoryTree(algorithm="sha256")
    began = time.perf_counter()
    for leaf in leaves[:20_000]:
        peer.append_entry(leaf)
    theirs = 20_000 / (time.perf_counter() - began)
    measured = f"{ours:,.0f}/s; pymerkle {theirs:,.0f}/s ({ours / theirs:.0f} x)"
    report("Merkle frontier, leaves a second", measured, ">= 500,000/s", ours >= 500_000)


def seed(seconds: float) -> None:
    for writers in (1, 8):
        rate, broken = seed_design.run(writers, seconds)
        report(f"the common design (ORM: read last, hash, insert), {writers} writers",
               f"{rate:.0f}/s, {broken:.0%} of links broken", "")  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    quick = arguments.parse_args().quick
    seconds, many = (0.7, 100_000) if quick else (3.0, 1_000_000)
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        os.environ["SECMON_HOME"] = home
        os.environ.pop("SECMON_DATABASE_URL", None)
        get_settings.cache_clear()
        embedded.start()
        database.migrate()
        try:
            seed(seconds)
            trees()
            appends(seconds)
            processes(seconds)
            business(seconds)
            bulk(20_000)
            verification(many)
        finally:
            database.close_pools()
            embedded.stop()
    missed = [what for what, _, _, mark in RESULTS if mark == "MISSED"]
    print(f"\n{len(missed)} of {sum(bool(m) for *_, m in RESULTS)} limits missed: {missed}")


if __name__ == "__main__":
    main()
