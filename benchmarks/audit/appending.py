"""Appends against bare inserts and COPY: alone, in threads, in processes, in transactions."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.audit.measuring import (
    COLUMNS,
    ENTRY,
    bare_insert,
    bare_table,
    callers,
    quantile,
    report,
    row,
)
from secmon_dagster import database
from secmon_dagster.audit import HashChainAuditLogger, Sequencer, enqueue
from secmon_dagster.database import Role


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


def chain_append() -> Callable[[], object]:
    global _log
    _log = _log or HashChainAuditLogger()
    log = _log
    return lambda: log.append_entry(**ENTRY)


_log: HashChainAuditLogger | None = None


def transaction(audited: bool) -> Callable[[], object]:
    """A business transaction that writes a row and takes 5 ms, on a connection of its own."""
    connection = database.connect(Role.SERVICE)

    def act() -> None:
        connection.execute("INSERT INTO business (what) VALUES ('release')")
        connection.execute("SELECT pg_sleep(0.005)")
        if audited:
            enqueue(connection, **ENTRY)
        connection.commit()

    return act


CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "bare": bare_insert,
    "chain": chain_append,
    "plain": lambda: transaction(False),
    "audited": lambda: transaction(True),
}


def client(kind: str, threads: int, seconds: float) -> None:
    """One client process: says that it is ready, waits for a line, prints how many calls it did."""
    CALLS[kind]()()
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(callers(threads, seconds, CALLS[kind])))


def in_processes(kind: str, count: int, threads: int, seconds: float) -> int:
    """Calls that ``count`` processes with so many threads each make in a time."""
    program = (
        f"from benchmarks.audit.appending import client; client({kind!r}, {threads}, {seconds})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE) for _ in range(count)
    ]  # fmt: skip
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(int(process.stdout.read()) for process in running)


def processes(seconds: float) -> None:
    with database.connect(Role.ADMIN, autocommit=True) as admin:
        bare_table(admin)
    bare = in_processes("bare", 4, 16, seconds)
    ours = in_processes("chain", 4, 16, seconds)
    measured = f"{ours / seconds:.0f}/s = {ours / bare:.2f} x bare"
    report("append, 4 processes x 16 threads", measured, ">= 0.5 x", ours / bare >= 0.5)


def business(seconds: float) -> None:
    """8 client processes, with and without an audit entry; a sequencer empties the outbox."""
    with database.connect(Role.ADMIN) as admin:
        admin.execute("CREATE TABLE business (id uuid DEFAULT gen_random_uuid(), what text)")
        admin.execute("GRANT INSERT ON business TO secmon_service")
    ratios = []
    with HashChainAuditLogger() as log:
        for _ in range(3):
            plain = in_processes("plain", 8, 1, seconds)
            sequencer = Sequencer(log.sequence).start()
            audited = in_processes("audited", 8, 1, seconds)
            sequencer.stop()
            sequencer.drain()
            ratios.append(audited / plain)
    ratio = statistics.median(ratios)
    measured = f"{audited / seconds:.0f}/s = {ratio:.2f} x without"
    report("5 ms business transaction, 8 clients", measured, ">= 0.9 x", ratio >= 0.9)


def bulk(count: int) -> None:
    ratios = []
    with HashChainAuditLogger() as log, database.connect(Role.ADMIN, autocommit=True) as admin:
        for _ in range(9):
            bare_table(admin)
            rows = [row(number + 1) for number in range(count)]
            began = time.perf_counter()
            with admin.cursor().copy(f"COPY bare ({COLUMNS}) FROM STDIN") as copy:
                for values in rows:
                    copy.write_row(values)
            bare = time.perf_counter() - began
            began = time.perf_counter()
            log.append_entries([ENTRY] * count)
            ours = time.perf_counter() - began
            ratios.append(bare / ours)
    ratio = statistics.median(ratios)
    measured = f"{count / ours:.0f}/s = {ratio:.2f} x COPY"
    report(f"bulk append of {count:,}", measured, ">= 0.6 x", ratio >= 0.6)
