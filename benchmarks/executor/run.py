"""Milliseconds a step, side by side with Dagster's own executors, on PostgreSQL.

A step's cost is the time from the first step's start to the last one's end, over the number of
steps, so that what a run costs once (its zygote, loading the job) is told apart from what a step
costs. Ratios count; the milliseconds depend on the machine and on who else uses it.

    python benchmarks/executor/run.py [chain] [parallel] [mapped]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg
from dagster import DagsterInstance

sys.path.append(str(Path(__file__).parent))
import bench_jobs

from secmon_dagster.database import embedded

WARM = ["bench_jobs", "dagster._core.execution.api", "dagster_postgres", "sqlalchemy", "psycopg2"]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
MAPPED = 200


def measure(instance: DagsterInstance, job, config: dict, ops: dict | None = None) -> dict:
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    result = dg.execute_job(
        dg.reconstructable(job),
        instance=instance,
        run_config={"execution": {"config": config}, "ops": ops or {}, **QUIET},
    )
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    if not result.success:
        raise SystemExit(f"{job.__name__} failed")
    entries = [entry for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    starts = [e.timestamp for e in entries if e.dagster_event.is_step_start]
    ends = [e.timestamp for e in entries if e.dagster_event.is_step_success]
    parent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return {
        "steps": len(ends),
        "ms_a_step": round(1000 * (max(ends) - min(starts)) / len(ends), 1),
        "run_seconds": round(wall, 2),
        "parent_cpu_percent": round(100 * parent / wall, 1),
    }


def main(subjects: list[str]) -> None:
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder, embedded.hold() as url:
        overrides = {"storage": {"postgres": {"postgres_url": url}}}
        with DagsterInstance.local_temp(folder, overrides=overrides) as instance:
            for subject in subjects:
                boxed = {"max_concurrent": 2, "audit": "off", "memory_budget": "64GiB"}
                if subject == "mapped":
                    ops = {"many": {"config": {"count": MAPPED}}}
                    found["mapped boxed"] = measure(instance, bench_jobs.mapped_boxed, boxed, ops)
                    continue
                preload = {"start_method": {"forkserver": {"preload_modules": WARM}}}
                runs = {
                    "in_process": ("in_process", {}),
                    "boxed": ("boxed", boxed),
                    "stock forkserver, preloaded": ("stock", {"max_concurrent": 2, **preload}),
                    "stock default": ("stock", {"max_concurrent": 2}),
                }
                for name, (executor, config) in runs.items():
                    job = getattr(bench_jobs, f"{subject}_{executor}")
                    found[f"{subject} {name}"] = measure(instance, job, config)
                    sys.stderr.write(f"{subject} {name}: {found[f'{subject} {name}']}\n")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["chain", "parallel", "mapped"])
