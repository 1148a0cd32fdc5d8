"""Milliseconds a step under each executor, on PostgreSQL, in one run of this program.

A step's cost is the time from the first step's start to the last one's end, over the number of
steps, so that what a run costs once (its zygote, loading the job) is told apart from what a step
costs.
"""

from __future__ import annotations

import resource
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from benchmarks.executor import jobs
from benchmarks.executor.report import report
from secmon_dagster import database
from secmon_dagster.database import embedded, transaction

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
BOXED = {"max_concurrent": 2, "audit": "off", "memory_budget": "64GiB"}
MAPPED = 200
VIOLATIONS = 5


@dataclass(frozen=True)
class Measured:
    """One run. ``parent_cpu`` is of the run's own process, in percent of one core."""

    ms_a_step: float
    wall: float
    parent_cpu: float


@contextmanager
def instance() -> Iterator[DagsterInstance]:
    with tempfile.TemporaryDirectory() as folder, embedded.hold() as url:
        database.migrate()
        # As in the project's own dagster.yaml.
        overrides = {
            "storage": {"postgres": {"postgres_url": url}},
            "telemetry": {"enabled": False},
        }
        with DagsterInstance.local_temp(folder, overrides=overrides) as made:
            yield made


def execute(
    on: DagsterInstance, job: Any, config: Mapping[str, Any], ops: Mapping[str, Any] | None = None
) -> dg.JobExecutionResult:
    return dg.execute_job(
        dg.reconstructable(job),
        instance=on,
        run_config={"execution": {"config": dict(config)}, "ops": ops or {}, **QUIET},
    )


def measure(
    on: DagsterInstance, job: Any, config: Mapping[str, Any], ops: Mapping[str, Any] | None = None
) -> Measured:
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    done = execute(on, job, config, ops)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    if not done.success:
        raise SystemExit(f"{job.__name__} failed")
    entries = [entry for entry in on.all_logs(done.run_id) if entry.dagster_event]
    starts = [each.timestamp for each in entries if each.dagster_event.is_step_start]
    ends = [each.timestamp for each in entries if each.dagster_event.is_step_success]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(1000 * (max(ends) - min(starts)) / len(ends), wall, 100 * cpu / wall)


def side_by_side(shape: str) -> None:
    """One shape of graph (``chain``, ``parallel``) under all executors."""
    with instance() as on:
        with execute(on, jobs.modules_boxed, BOXED) as found:
            warm = found.output_for_node("loaded")
        forkserver = {"start_method": {"forkserver": {"preload_modules": warm}}}
        executors = {
            "in_process": ("in_process", {}),
            "boxed": ("boxed", BOXED),
            "in_process again": ("in_process", {}),
            "boxed again": ("boxed", BOXED),
            "boxed, audit required": ("boxed", {**BOXED, "audit": "required"}),
            f"stock forkserver, {len(warm)} modules preloaded": (
                "stock",
                {"max_concurrent": 2, **forkserver},
            ),
            "stock multiprocess (spawn)": ("stock", {"max_concurrent": 2}),
        }
        results = {}
        for name, (executor, config) in executors.items():
            result = measure(on, getattr(jobs, f"{shape}_{executor}"), config)
            results[name] = result.ms_a_step
            report(f"{shape}: {name}", f"{result.ms_a_step:.1f} ms a step, run {result.wall:.1f} s")
    in_process = min(results["in_process"], results["in_process again"])
    boxed = min(results["boxed"], results["boxed again"])
    forkserver_ms, spawn_ms = list(results.values())[-2:]
    for name, ratio, promised, met in (
        ("boxed / in_process", boxed / in_process, "<= 1.1", boxed <= 1.1 * in_process),
        ("stock forkserver / boxed", forkserver_ms / boxed, ">= 3", forkserver_ms >= 3 * boxed),
        ("stock spawn / boxed", spawn_ms / boxed, ">= 20", spawn_ms >= 20 * boxed),
    ):
        report(f"{shape}: {name}", f"{ratio:.2f}", promised, met)


def chain() -> None:
    side_by_side("chain")


def parallel() -> None:
    side_by_side("parallel")


def mapped() -> None:
    """Whether two hundred mapped steps cost what two hundred steps cost."""
    with instance() as on:
        few = measure(on, jobs.mapped_boxed, BOXED, {"many": {"config": {"count": jobs.STEPS}}})
        many = measure(on, jobs.mapped_boxed, BOXED, {"many": {"config": {"count": MAPPED}}})
    ratio = many.ms_a_step / few.ms_a_step
    report(f"mapped: {jobs.STEPS} steps", f"{few.ms_a_step:.1f} ms a step")
    report(f"mapped: {MAPPED} steps", f"{many.ms_a_step:.1f} ms a step, run {many.wall:.1f} s")
    report("mapped: total / (steps x cost of a step)", f"{ratio:.2f}", "<= 1.2", ratio <= 1.2)
    cpu = many.parent_cpu
    report("mapped: CPU of the run's process", f"{cpu:.1f} % of a core", "< 20 %", cpu < 20)


def stored() -> None:
    """From the moment a step is out of memory to the moment the violation is on record."""
    late: list[float] = []
    with instance() as on, tempfile.NamedTemporaryFile() as clock:
        write, told = on.handle_new_event, []

        def handle_new_event(event: Any, **options: Any) -> None:
            write(event, **options)
            data = getattr(event.dagster_event, "event_specific_data", None)
            if "violation" in (getattr(data, "metadata", None) or {}):
                told.append(time.time())

        on.handle_new_event = handle_new_event  # type: ignore[method-assign]
        for _ in range(VIOLATIONS):
            Path(clock.name).write_bytes(bytes(8))
            ops = {"over_its_memory": {"config": {"clock": clock.name}}}
            done = execute(on, jobs.violating_boxed, {**BOXED, "audit": "required"}, ops)
            (ended,) = struct.unpack("d", Path(clock.name).read_bytes())
            with transaction() as connection:
                row = connection.execute(
                    'SELECT extract(epoch FROM "timestamp") FROM audit_entries'
                    " WHERE execution_id = %s AND action = 'LIMIT_VIOLATION'",
                    [done.run_id],
                ).fetchone()
            late.append(1000 * (max(told[-1], float(row[0])) - ended))
    shown = ", ".join(f"{each:.0f}" for each in late)
    report(
        "violation: end of the step -> event log and audit chain",
        f"{shown} ms",
        "each <= 100 ms",
        max(late) <= 100,
    )
