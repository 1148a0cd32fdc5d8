"""A whole job in boxes."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import jobs
import pytest
from dagster import DagsterEventType, DagsterInstance

# Its tests look at the same few runs, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-executor")


def test_a_chain_of_steps_succeeds_and_passes_values_on(run, instance):
    done = run(jobs.chain)
    assert done.succeeded
    assert instance.get_run_by_id(done.result.run_id).status is dg.DagsterRunStatus.SUCCESS


def test_log_calls_of_an_op_reach_the_event_log(run, instance):
    done = run(jobs.chain)
    messages = [entry.user_message for entry in instance.all_logs(done.result.run_id)]
    assert [text for text in messages if text.startswith("adding")] == [
        "adding to 1",
        "adding to 2",
    ]


def test_standard_output_of_a_step_is_kept_as_its_compute_log(run, instance):
    done = run(jobs.chain)
    captured = {
        tuple(event.logs_captured_data.step_keys): event.logs_captured_data.file_key
        for event in done.events(DagsterEventType.LOGS_CAPTURED)
    }
    manager = instance.compute_log_manager
    key = manager.build_log_key_for_run(done.result.run_id, captured[("second",)])
    assert manager.is_capture_complete(key)
    assert b"to stdout" in manager.get_log_data(key).stdout


def test_each_step_of_a_troubled_job_ends_for_its_own_reason(run):
    done = run(jobs.troubled)
    assert not done.succeeded
    assert done.violation("eats_memory") == "memory_limit_exceeded"
    assert done.violation("sleeps") == "time_limit_exceeded"
    assert done.violation("ignores_sigterm") == "time_limit_exceeded"
    assert done.violation("crashes") is None
    assert "SIGSEGV" in done.failure("crashes").error.message
    assert done.kinds("one")[-2:] == ["STEP_SUCCESS", "ENGINE_EVENT"]


def test_a_memory_violation_carries_limit_and_peak(run):
    done = run(jobs.troubled)
    metadata = done.failure("eats_memory").user_failure_data.metadata
    assert metadata["limit"].value == 64 * jobs.MB
    assert metadata["observed"].value >= 63 * jobs.MB
    [engine_event] = [
        event
        for event in done.events(DagsterEventType.ENGINE_EVENT, "eats_memory")
        if "violation" in event.event_specific_data.metadata
    ]
    assert engine_event.event_specific_data.metadata["limit"].value == 64 * jobs.MB


def test_a_run_with_a_violation_fails_for_its_step_and_not_for_an_exception(run, instance):
    done = run(jobs.troubled)
    [failed] = done.events(DagsterEventType.RUN_FAILURE)
    assert failed.job_failure_data.failure_reason is not None
    assert failed.job_failure_data.failure_reason.value == "STEP_FAILURE"


def test_a_job_runs_on_postgres_storage(database, tmp_path: Path):
    overrides = {
        "storage": {"postgres": {"postgres_url": database.url}},
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(tmp_path)},
        },
    }
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        result = dg.execute_job(
            dg.reconstructable(jobs.chain),
            instance=instance,
            run_config={"execution": {"config": {"audit": "off"}}},
        )
        assert result.success
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
