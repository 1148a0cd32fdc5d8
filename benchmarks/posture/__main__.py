"""Posture: checks with 100,000 activity rows, profile reads, 1000 instances in one scheduled run.

Run: ``python -m benchmarks.posture`` (needs SECMON_DATABASE_URL or a running
embedded server; it makes instances of its own and removes them).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import dagster as dg

from secmon_dagster import database
from secmon_dagster.database import Role, transaction
from secmon_dagster.defs.posture.checks import posture_schedule
from secmon_dagster.orchestration import instance as dagster_home
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService, Session
from secmon_dagster.posture.keys import create_key

ROWS = 100_000
INSTANCES = 1000
OWNER = "benchmark"


def main() -> None:
    database.migrate()
    security, agents = SecurityMonitoringService(), AgentManagementService()
    try:
        bot = agents.create_instance("bot", scopes=["act"], owner_id=OWNER).instance_id
        security.attach_security_layer_to_instance(bot, "default")
        key, _ = create_key(Session.open(), user_id=OWNER, role="operator", instance_id=bot)
        with transaction(Role.SERVICE) as connection:
            connection.execute(
                "INSERT INTO instance_activities (instance_id, action, details, prompt, output, "
                "auth_method, key_id, at) "
                "SELECT %s, 'act', jsonb_build_object('n', n), 'Write about topic ' || n, "
                "'Here is a text about topic ' || n, 'api_key', %s, now() - n * interval '0.5 s' "
                "FROM generate_series(1, %s) n",
                (bot, key.key_id, ROWS),
            )
        with database.connect(Role.ADMIN, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE secmon.instance_activities")
        security.run_security_checks(bot)  # scans the texts, once
        report(f"run_security_checks, {ROWS:,} rows", 20, lambda: security.run_security_checks(bot))
        report("profile read", 5, lambda: security.get_instance_security_profile(bot))

        ids = [
            agents.create_instance(f"b{n}", scopes=["act"], owner_id=OWNER).instance_id
            for n in range(INSTANCES)
        ]
        for instance in ids:
            security.attach_security_layer_to_instance(instance, "default")
        with transaction(Role.SERVICE) as connection:
            # As the service writes them: scanned at once.
            connection.execute(
                "INSERT INTO instance_activities (instance_id, action, prompt, findings) "
                "SELECT i, 'act', 'Write about topic ' || n, '[]' "
                "FROM unnest(%s::text[]) i, generate_series(1, 20) n",
                (ids,),
            )
        started = time.perf_counter()
        found = len(security.run_all_security_checks())
        print(f"{found} instances in one call: {time.perf_counter() - started:.1f} s")
        scheduled_run(found)
    finally:
        with database.connect(Role.OWNER) as connection:
            connection.execute("DELETE FROM agent_instances WHERE owner_id = %s", (OWNER,))


def scheduled_run(instances: int) -> None:
    """The job of the schedule, as a run of its own on the platform's Dagster instance."""
    os.environ.update(dagster_home.prepare())
    job = dg.build_reconstructable_job(
        "secmon_dagster.orchestration.workflows",
        "job_in",
        reconstructable_kwargs={
            "module": "secmon_dagster.definitions",
            "name": posture_schedule.job_name,
        },
    )
    with dg.DagsterInstance.get() as instance:
        job.get_definition()  # a code server has loaded it long before the schedule ticks
        started = time.perf_counter()
        result = dg.execute_job(job, instance=instance, raise_on_error=True)
        seconds = time.perf_counter() - started
        (step,) = instance.get_run_step_stats(result.run_id)
        checked = (step.end_time or 0.0) - (step.start_time or 0.0)
        print(
            f"{instances} instances in one scheduled run: {seconds:.1f} s, "
            f"{checked:.1f} s of them in the step (limit 10 s)"
        )


def report(name: str, limit_ms: float, act: Callable[[], object], rounds: int = 100) -> None:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        times.append((time.perf_counter() - started) * 1000)
    times.sort()
    print(
        f"{name}: p50 {statistics.median(times):.2f} ms, p95 {times[int(rounds * 0.95)]:.2f} ms "
        f"(limit {limit_ms:g} ms)"
    )


if __name__ == "__main__":
    main()
