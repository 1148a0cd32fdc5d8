"""The same job under the stock executor and under this one: same outcome, same event types."""

from __future__ import annotations

import jobs
import pytest
from dagster import AssetKey, DagsterEventType

# Its tests look at the same few runs, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-parity")

USAGE = "Resource usage of step"


@pytest.fixture(scope="module")
def boxed(run):
    return run(jobs.ordinary_boxed, target=jobs.define_ordinary_boxed)


@pytest.fixture(scope="module")
def stock(run):
    modules = ["jobs", "dagster._core.execution.api", "sqlalchemy", "alembic.script"]
    return run(
        jobs.ordinary_stock,
        target=jobs.define_ordinary_stock,
        config={"start_method": {"forkserver": {"preload_modules": modules}}},
        stock=True,
    )


def by_step(done):
    """Event types of each step in order, without the one engine event that this executor adds."""
    found = {}
    for event in done.events():
        if event.step_key is not None and not (event.message or "").startswith(USAGE):
            found.setdefault(event.step_key, []).append(event.event_type_value)
    return found


@pytest.mark.slow
def test_the_outcome_is_the_same(boxed, stock):
    assert boxed.succeeded is stock.succeeded is False
    failed = [
        sorted(event.step_key for event in done.events(DagsterEventType.STEP_FAILURE))
        for done in (boxed, stock)
    ]
    assert failed[0] == failed[1] == ["fails_on_purpose"]


@pytest.mark.slow
def test_every_step_has_the_same_event_types_in_the_same_order(boxed, stock):
    assert by_step(boxed) == by_step(stock)


def test_dynamic_steps_skips_and_retries_are_all_there(boxed):
    steps = by_step(boxed)
    assert {f"double[part_{number}]" for number in range(3)} <= steps.keys()
    assert steps["not_taken"] == ["STEP_SKIPPED"]
    assert "STEP_SUCCESS" in steps["taken"]
    assert "after_the_failure" not in steps
    assert steps["succeeds_at_the_second_attempt"].count("STEP_RESTARTED") == 1
    assert steps["one"][-1] == "HOOK_COMPLETED"


def test_a_failure_raised_by_an_op_keeps_its_own_metadata(boxed):
    data = boxed.failure("fails_on_purpose").user_failure_data
    assert data.label == "intentional-failure"
    assert data.metadata["why"].value == "a test"


def test_the_event_added_to_each_step_tells_its_usage(boxed):
    [usage] = [
        event.event_specific_data.metadata
        for event in boxed.events(DagsterEventType.ENGINE_EVENT, "one")
        if event.message.startswith(USAGE)
    ]
    assert usage["wall_seconds"].value > 0
    assert usage["enforcement"].value in ("cgroup2", "cgroup1", "sampled")


def test_a_failed_run_is_executed_again_from_its_failure(boxed, run, instance):
    from dagster import ReexecutionOptions, execute_job, reconstructable

    again = execute_job(
        reconstructable(jobs.define_ordinary_boxed),
        instance=instance,
        reexecution_options=ReexecutionOptions.from_failure(boxed.result.run_id, instance),
        run_config={"execution": {"config": {"audit": "off"}}},
    )
    executed = {event.step_key for event in again.all_events if event.is_step_start}
    assert executed == {"fails_on_purpose"}


@pytest.fixture(scope="module")
def assets(run):
    return run(jobs.define_assets_job(), target=jobs.define_assets_job)


def test_assets_checks_and_resources_work_across_steps(assets, instance):
    assert assets.succeeded
    event = instance.get_latest_materialization_event(AssetKey("written"))
    assert event.asset_materialization.metadata["greeting"].value.startswith("hello from")
    assert len(assets.events(DagsterEventType.ASSET_CHECK_EVALUATION)) == 1


def test_what_an_op_says_of_an_asset_is_stored_when_the_op_goes_on(assets):
    assert "STEP_SUCCESS" in assets.kinds("reads_what_was_written")


@pytest.fixture(scope="module")
def mannered(run, instance):
    instance.event_log_storage.set_concurrency_slots("narrow", 1)
    return run(jobs.mannered, config={"max_concurrent": 3})


def test_steps_of_a_pool_wait_for_each_other_and_give_the_slot_back(mannered, instance):
    spans = []
    for step in ("first_holder", "second_holder"):
        records = [
            entry
            for entry in instance.all_logs(mannered.result.run_id)
            if entry.step_key == step and entry.dagster_event is not None
        ]
        times = {entry.dagster_event.event_type_value: entry.timestamp for entry in records}
        spans.append((times["STEP_START"], times["STEP_SUCCESS"]))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start
    assert instance.event_log_storage.get_concurrency_info("narrow").active_slot_count == 0


def test_failure_hooks_run_after_a_violation_and_can_read_it(mannered, instance):
    messages = [entry.user_message for entry in instance.all_logs(mannered.result.run_id)]
    assert sorted(text for text in messages if text.startswith("hook saw")) == [
        "hook saw LimitExceededError memory_limit_exceeded",
        "hook saw LimitExceededError time_limit_exceeded",
    ]
    assert mannered.kinds("memory_in_the_op").count("HOOK_COMPLETED") == 1
    assert mannered.kinds("time_asleep").count("HOOK_COMPLETED") == 1


def test_a_violation_is_retried_where_the_policy_allows(mannered):
    kinds = mannered.kinds("needs_a_second_attempt")
    assert kinds.count("STEP_UP_FOR_RETRY") == 1
    assert kinds.count("STEP_RESTARTED") == 1
    assert "STEP_SUCCESS" in kinds
