"""A whole job in boxes."""

from __future__ import annotations

import dagster as dg
import jobs
import pytest
from dagster import AssetKey, DagsterEventType

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


@pytest.fixture(scope="module")
def assets(run):
    return run(jobs.define_assets_job, target=jobs.define_assets_job)


def test_assets_checks_and_resources_work_across_steps(assets, instance):
    assert assets.succeeded
    event = instance.get_latest_materialization_event(AssetKey("written"))
    assert event.asset_materialization.metadata["greeting"].value.startswith("hello from")
    assert len(assets.events(DagsterEventType.ASSET_CHECK_EVALUATION)) == 1


def test_what_an_op_says_of_an_asset_is_stored_when_the_op_goes_on(assets):
    assert "STEP_SUCCESS" in assets.kinds("reads_what_was_written")
