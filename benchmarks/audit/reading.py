"""Verification, queries, export and trees, against COPY and pymerkle."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

import pymerkle

from benchmarks.audit.measuring import ENTRY, quantile, report
from secmon_dagster import database
from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.database import Role


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
