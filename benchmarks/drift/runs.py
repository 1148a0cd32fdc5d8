"""``python -m benchmarks.drift.runs``: a whole check as a run, and a thousand models due at once.

Needs nothing running: a server and a SECMON_HOME of its own, in a temporary folder. A run of
100,000 rows × 50 columns goes from the launch of its job to its last event on the project's
executor; the thousand are one evaluation of the due-ness sensor against the instance.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROWS, COLUMNS, MODELS, RUNS = 100_000, 50, 1000, 3


def job() -> Any:
    """The check job of the code location."""
    from secmon_dagster.definitions import defs

    return defs().get_repository_def().get_job("drift_check_job")


def check_seconds(instance: Any, folder: Path) -> list[float]:
    """Wall seconds of each run; the first also profiles the reference."""
    import dagster as dg
    import numpy as np
    import pandas as pd

    from secmon_dagster.drift import ModelDriftConfig
    from secmon_dagster.drift.registry import register

    rng = np.random.default_rng(0)
    for name in ("reference", "current"):
        columns = {f"n{i:02}": rng.normal(size=ROWS) for i in range(COLUMNS)}
        pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet")
    source = {
        "reference": {"path": str(folder / "reference.parquet")},
        "window": {"path": str(folder / "current.parquet")},
    }
    register(ModelDriftConfig("wide", "1", source=source), datetime.now(UTC))
    instance.add_dynamic_partitions("drift_models", ["wide"])
    seconds = []
    for _ in range(1 + RUNS):
        result = dg.execute_job(
            dg.reconstructable(job), instance=instance, tags={"dagster/partition": "wide"}
        )
        assert result.success
        stats = instance.get_run_stats(result.run_id)
        step = instance.get_run_step_stats(result.run_id)[0]
        print(
            f"  run {stats.end_time - stats.start_time:.2f} s,"
            f" its step {step.end_time - step.start_time:.2f} s"
        )
        seconds.append(stats.end_time - stats.start_time)
    return seconds


def sensor_seconds(instance: Any) -> tuple[float, int, int]:
    """Wall seconds of one evaluation; requests of it, and of a second one right after."""
    import dagster as dg

    from secmon_dagster.database import transaction
    from secmon_dagster.definitions import defs
    from secmon_dagster.drift import ModelDriftConfig
    from secmon_dagster.drift.registry import register

    now = datetime.now(UTC)
    for number in range(MODELS):
        register(ModelDriftConfig(f"m{number:04}", "1", "hourly"), now)
    with transaction() as connection:
        connection.execute(
            """UPDATE drift_models SET next_due = date_trunc('hour', now())
                WHERE schedule_interval = 'hourly'"""
        )
    repository = defs().get_repository_def()
    sensor = repository.get_sensor_def("drift_due_sensor")

    def evaluate() -> list[Any]:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        found = sensor(context)
        assert isinstance(found, dg.SensorResult)
        return list(found.run_requests or [])

    began = time.perf_counter()
    first = evaluate()
    taken = time.perf_counter() - began
    return taken, len({each.run_key for each in first}), len(evaluate())


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="secmon") as folder:
        os.environ["SECMON_HOME"] = str(Path(folder) / "h")
        import dagster as dg

        from secmon_dagster.database import close_pools, embedded, migrate
        from secmon_dagster.orchestration.instance import prepare

        with embedded.hold():
            migrate()
            prepare()
            with dg.DagsterInstance.get() as instance:
                first, *others = check_seconds(instance, Path(folder))
                taken, requests, again = sensor_seconds(instance)
            close_pools()
    best = min(others)
    print(f"a check of {ROWS} x {COLUMNS} as a run: {best:.2f} s (promised 2), first {first:.2f} s")
    print(f"{requests} of {MODELS} requests in {taken:.2f} s (promised 5), {again} of them again")
    kept = best <= 2 and taken <= 5 and (requests, again) == (MODELS, 0)
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
