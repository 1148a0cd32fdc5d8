"""Ops that turn against whoever runs them: a defined end, and the run goes on."""

from __future__ import annotations

import hostile_jobs
import pytest

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
