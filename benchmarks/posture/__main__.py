"""Posture: checks with 100,000 activity rows, profile reads, 1000 instances in one go.

Run: ``python -m benchmarks.posture`` (needs SECMON_DATABASE_URL or a running
embedded server; it makes instances of its own and removes them).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from secmon_dagster import database
from secmon_dagster.database import Role, transaction
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService

ROWS = 100_000
INSTANCES = 1000
OWNER = "benchmark"


def main() -> None:
    database.migrate()
    security, agents = SecurityMonitoringService(), AgentManagementService()
    try:
        bot = agents.create_instance("bot", scopes=["act"], owner_id=OWNER).instance_id
        security.attach_security_layer_to_instance(bot, "default")
        with transaction(Role.SERVICE) as connection:
            connection.execute(
                "INSERT INTO instance_activities "
                "(instance_id, action, details, prompt, output, at) "
                "SELECT %s, 'act', jsonb_build_object('n', n), 'Write about topic ' || n, "
                "'Here is a text about topic ' || n, now() - n * interval '0.5 s' "
                "FROM generate_series(1, %s) n",
                (bot, ROWS),
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
            connection.execute(
                "INSERT INTO instance_activities (instance_id, action, prompt) "
                "SELECT i, 'act', 'hello' FROM unnest(%s::text[]) i, generate_series(1, 20)",
                (ids,),
            )
        started = time.perf_counter()
        for instance in ids:
            security.run_security_checks(instance)
        seconds = time.perf_counter() - started
        print(f"{INSTANCES} instances in one go: {seconds:.1f} s (limit 10 s)")
    finally:
        with database.connect(Role.OWNER) as connection:
            connection.execute("DELETE FROM agent_instances WHERE owner_id = %s", (OWNER,))


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
