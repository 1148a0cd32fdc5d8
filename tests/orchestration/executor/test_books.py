"""What a run leaves in the audit chain and in step_usage, on PostgreSQL."""

from __future__ import annotations

import dagster as dg
import jobs
import pytest
from dagster import DagsterInstance

from secmon_dagster.audit import get_audit_logger


@pytest.fixture
def postgres(database, tmp_path):
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        yield instance


def execute(instance, job, **config):
    executor = {"grace": 1.0, "max_concurrent": 2, **config}
    return dg.execute_job(
        dg.reconstructable(job),
        instance=instance,
        run_config={"execution": {"config": executor}},
        tags={"secmon/user": "ada"},
    )


def test_a_run_its_steps_and_their_violations_are_entries_of_the_chain(postgres, database):
    result = execute(postgres, jobs.troubled)
    with database.admin() as connection:
        rows = connection.execute(
            "SELECT event_type, level, job_id, details FROM secmon.dag_audit_logs"
            " WHERE execution_id = %s ORDER BY timestamp",
            [result.run_id],
        ).fetchall()
        usage = connection.execute(
            "SELECT step_key, outcome, violation, enforcement, wall_seconds > 0, user_id"
            " FROM secmon.step_usage WHERE run_id = %s",
            [result.run_id],
        ).fetchall()
    found = {(kind, level, step) for kind, level, step, _ in rows}
    assert ("execution.start", "info", None) in found
    assert ("execution.failed", "error", None) in found
    assert ("job.start", "info", "one") in found
    assert ("job.complete", "info", "one") in found
    assert ("job.memory_limit", "critical", "eats_memory") in found
    assert ("job.timeout", "critical", "sleeps") in found
    assert ("job.failed", "error", "crashes") in found
    timeouts = [details["timeoutMs"] for kind, _, _, details in rows if kind == "job.timeout"]
    assert timeouts == [1000, 1000]
    assert get_audit_logger().verify_chain()["valid"]
    by_step = {row[0]: row[1:] for row in usage}
    assert by_step["one"][:2] == ("success", None)
    assert by_step["eats_memory"][:2] == ("failure", "memory_limit_exceeded")
    assert all(row[4] and row[5] == "ada" for row in usage)
    assert len(usage) == 5


def test_a_step_whose_start_can_not_be_written_is_not_run(postgres, database):
    with database.admin() as connection:
        connection.execute("REVOKE secmon_writer, secmon_service FROM CURRENT_USER")
        connection.execute("ALTER SCHEMA secmon RENAME TO secmon_gone")
    result = execute(postgres, jobs.chain)
    assert not result.success
    kinds = {event.event_type_value for event in result.all_events}
    assert "STEP_START" not in kinds
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "audit chain can't be written" in failure.step_failure_data.error.message
