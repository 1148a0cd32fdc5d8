"""Who is told of a violation: failure hooks, failure sensors, the op's retry policy."""

from __future__ import annotations

import dagster as dg
import jobs
import pytest
from dagster import DagsterEventType
from dagster._core.definitions.run_status_sensor_definition import RunStatusSensorCursor

from secmon_dagster.limits import probe

# Its tests look at the same run, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-executor")


@pytest.fixture(scope="module")
def violated(run):
    return run(jobs.violated, config={"max_concurrent": 3})


def test_failure_hooks_run_after_a_violation_and_can_read_it(violated, instance):
    messages = [entry.user_message for entry in instance.all_logs(violated.result.run_id)]
    assert {text for text in messages if text.startswith("hook saw")} == {
        "hook saw LimitExceededError memory_limit_exceeded",
        "hook saw LimitExceededError time_limit_exceeded",
    }
    assert violated.kinds("memory_in_the_op").count("HOOK_COMPLETED") == 1
    assert violated.kinds("time_asleep").count("HOOK_COMPLETED") == 1


def test_a_layer_binds_the_hooks_of_its_steps_too(violated):
    if not (probe().network_namespaces and probe().seccomp_notify):
        pytest.skip("no network namespaces or no system-call filters here")
    step = "time_asleep_in_a_layer_without_network"
    told = [
        event.event_specific_data.metadata["violation"].value
        for event in violated.events(DagsterEventType.ENGINE_EVENT, step)
        if "violation" in event.event_specific_data.metadata
    ]
    assert told == ["time_limit_exceeded", "unauthorized_access"]


def test_a_violation_is_retried_where_the_policy_allows(violated):
    kinds = violated.kinds("needs_a_second_attempt")
    assert kinds.count("STEP_UP_FOR_RETRY") == 1
    assert kinds.count("STEP_RESTARTED") == 1
    assert "STEP_SUCCESS" in kinds


def test_run_failure_sensors_fire_on_a_violation_and_can_read_it(violated, instance):
    told = []

    @dg.run_failure_sensor(monitored_jobs=[jobs.violated])
    def on_call(context: dg.RunFailureSensorContext):
        for event in context.get_step_failure_events():
            data = event.step_failure_data.user_failure_data
            told.append((event.step_key, data.label, data.metadata["violation"].value))
            assert data.metadata["limit"].value > 0

    definitions = dg.Definitions(jobs=[jobs.violated], sensors=[on_call])
    # As the daemon stood before any run; without a cursor a sensor only starts to look.
    context = dg.build_sensor_context(
        instance=instance,
        repository_def=definitions.get_repository_def(),
        cursor=RunStatusSensorCursor(record_id=0).to_json(),
        sensor_name="on_call",
    )
    tick = on_call.evaluate_tick(context)
    assert tick.skip_message is None
    assert sorted(told) == [
        ("memory_in_the_op", "resource-limit", "memory_limit_exceeded"),
        ("time_asleep", "resource-limit", "time_limit_exceeded"),
        ("time_asleep_in_a_layer_without_network", "resource-limit", "time_limit_exceeded"),
    ]
    assert tick.dagster_run_reactions[0].dagster_run.run_id == violated.result.run_id
