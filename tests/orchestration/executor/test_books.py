"""What a run leaves in the audit chain where that can't be written."""

from __future__ import annotations

import dagster as dg
import jobs
from dagster import DagsterInstance


def test_a_step_whose_start_can_not_be_written_is_not_run(database, tmp_path):
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        with database.admin() as connection:
            connection.execute("REVOKE secmon_writer, secmon_service FROM CURRENT_USER")
            connection.execute("ALTER SCHEMA secmon RENAME TO secmon_gone")
        result = dg.execute_job(dg.reconstructable(jobs.chain), instance=instance)
        assert not result.success
        kinds = {event.event_type_value for event in result.all_events}
        assert "STEP_START" not in kinds
        [failure] = [event for event in result.all_events if event.is_step_failure]
        assert "audit chain can't be written" in failure.step_failure_data.error.message
