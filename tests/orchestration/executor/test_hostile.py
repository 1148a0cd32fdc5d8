"""Ops that turn against whoever runs them: a defined end, and the run goes on."""

from __future__ import annotations

import forging_jobs
import hostile_jobs
import pytest
from books import recorded

from secmon_dagster.limits import probe
from secmon_dagster.limits.proc import stat_of

# Its tests look at the same run, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-hostile")

HARD = probe().hard_limits
MEMORY = "memory_limit_exceeded"
ACCESS = "unauthorized_access"


@pytest.fixture(scope="module")
def hostile(run):
    return run(hostile_jobs.hostile, config={"monitor_interval": 0.4, "max_concurrent": 3})


@pytest.mark.parametrize("step", ["writes_garbage", "sends_a_frame_of_nonsense"])
def test_bytes_that_are_no_events_end_their_sender(hostile, step):
    assert hostile.violation(step) == ACCESS


def test_an_event_in_the_name_of_the_run_ends_its_sender(hostile):
    assert hostile.violation("forges_the_success_of_another") == ACCESS
    assert "PIPELINE_START" in hostile.failure("forges_the_success_of_another").error.message


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("closes_all_descriptors", "exited with 1"),
        ("exits_without_a_word", "exited with 0 before the step was over"),
        ("exits_with_seven", "exited with 7"),
        ("crashes", "SIGSEGV"),
    ],
)
def test_a_step_that_ends_without_a_word_fails_with_how_it_ended(hostile, step, words):
    assert words in hostile.failure(step).error.message
    assert hostile.violation(step) is None


def test_an_output_that_can_not_be_pickled_fails_its_step_with_the_reason(hostile):
    error = hostile.failure("returns_what_can_not_be_pickled").error
    assert "pickle" in error.to_string()
    assert hostile.violation("returns_what_can_not_be_pickled") is None


def test_killing_the_process_that_starts_steps_stops_neither_run_nor_steps(hostile):
    assert "STEP_SUCCESS" in hostile.kinds("kills_its_parent")
    assert "STEP_SUCCESS" in hostile.kinds("one")


def test_a_daemon_ends_with_its_step(hostile, instance):
    messages = [entry.user_message for entry in instance.all_logs(hostile.result.run_id)]
    [told] = [text for text in messages if text.startswith("daemon ")]
    left = stat_of(int(told.split()[1]))
    assert left is None or left.state == "Z"


def test_success_is_not_believed_when_a_child_ran_out_of_memory(hostile):
    if not HARD:
        pytest.skip("sampling may look too late")
    assert hostile.violation("succeeds_while_a_child_is_out_of_memory") == MEMORY
    assert "STEP_SUCCESS" not in hostile.kinds("succeeds_while_a_child_is_out_of_memory")


def test_a_flood_of_events_arrives_whole(hostile, instance):
    messages = [entry.user_message for entry in instance.all_logs(hostile.result.run_id)]
    assert sum(len(text) for text in messages if text.startswith("xxx")) == 20 * hostile_jobs.MB


# --- events that are well-formed and yet none that Dagster would send -----------------------------


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def forging(request, run, new_database, tmp_path_factory):
    config = {"monitor_interval": 0.4, "max_concurrent": 3}
    if request.param == "sqlite":
        yield run(forging_jobs.forging, config=config)
        return
    with new_database() as database, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SECMON_DATABASE_URL", database.url)
        folder = tmp_path_factory.mktemp("forging")
        with recorded(forging_jobs.forging, config, database, folder) as found:
            yield found.run


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("speaks_from_the_end_of_time", "can't be stored"),
        ("speaks_at_no_time", "can't be stored"),
        ("puts_out_what_is_anothers", "an output of step plus_one"),
        ("puts_out_one_of_many", "an output it doesn't have"),
        ("ends_twice", "sent STEP_SUCCESS when it was over"),
        ("goes_on_when_it_is_over", "went on sending when it was over"),
        ("tells_of_an_asset_without_one", "can't be stored"),
        ("tells_of_logs_without_any", "an event that is none"),
        ("keeps_its_logs_where_none_belong", "a file of logs called"),
        ("claims_a_limit_ended_it", "a violation"),
        ("wants_to_be_tried_again_at_no_time", "a retry that can't be"),
        ("forges_and_leaves_at_once", "an event of run another"),
    ],
)
def test_an_event_its_step_has_no_right_to_ends_the_step_and_not_the_run(forging, step, words):
    assert forging.violation(step) == ACCESS
    assert words in forging.failure(step).error.message
    assert "STEP_SUCCESS" in forging.kinds("plus_one")


@pytest.mark.parametrize(
    "step", ["succeeds_although_its_resources_failed", "waits_although_its_resources_failed"]
)
def test_a_step_that_says_its_resources_failed_has_failed_once_and_for_all(forging, step):
    endings = [kind for kind in forging.kinds(step) if kind in ("STEP_FAILURE", "STEP_SUCCESS")]
    assert endings == ["STEP_FAILURE"]


@pytest.mark.parametrize("forging", ["postgres"], indirect=True, scope="module")
def test_a_partition_that_postgresql_can_not_hold_fails_its_step_alone(forging):
    step = "names_a_partition_postgresql_can_not_hold"
    assert "can't be stored" in forging.failure(step).error.message
