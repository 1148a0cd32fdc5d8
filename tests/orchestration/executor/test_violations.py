"""Every way a limit can be passed ends the step with the right violation, and only that step."""

from __future__ import annotations

import jobs
import pytest
from dagster import DagsterEventType

from secmon_dagster.limits import probe

# Its tests look at the same few runs, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-violations")

CAPABILITIES = probe()
HARD = CAPABILITIES.hard_limits
NETWORK = CAPABILITIES.network_namespaces and CAPABILITIES.seccomp_notify

MEMORY = "memory_limit_exceeded"
TIME = "time_limit_exceeded"
CPU = "cpu_limit_exceeded"
ACCESS = "unauthorized_access"

ROWS = [
    ("memory_in_a_child", MEMORY, "high"),
    ("memory_in_a_grandchild_that_forked_twice", MEMORY, "high"),
    ("memory_leaks_slowly", MEMORY, "high"),
    ("memory_in_files", MEMORY, "high"),
    ("time_in_python", TIME, "high"),
    ("time_in_c_holding_the_gil", TIME, "high"),
    ("sustained_cpu", CPU, "high"),
    ("fork_bomb", ACCESS, "critical"),
    ("network_by_tcp", ACCESS, "critical"),
    ("network_by_udp", ACCESS, "critical"),
    ("network_by_dns", ACCESS, "critical"),
    ("network_by_ipv6", ACCESS, "critical"),
    ("network_by_abstract_socket", ACCESS, "critical"),
]
NOT_SAMPLED = {"memory_in_files"}  # files in memory belong to no process


# Where there is a better one, the sampled back end waits for --slow.
SAMPLED = pytest.param("sampled", marks=[pytest.mark.slow] if HARD else [])


@pytest.fixture(scope="module", params=[CAPABILITIES.backend, SAMPLED] if HARD else [SAMPLED])
def rows(run, request):
    config = {"backend": request.param, "monitor_interval": 0.4, "max_concurrent": 4}
    return request.param, run(jobs.rows, config=config)


@pytest.mark.parametrize(("step", "kind", "severity"), ROWS, ids=[row[0] for row in ROWS])
def test_the_step_ends_with_the_right_violation(rows, step, kind, severity):
    backend, done = rows
    if backend == "sampled" and step in NOT_SAMPLED:
        pytest.skip("sampling doesn't count files in memory, and says so")
    if step.startswith("network") and not NETWORK:
        pytest.skip("no network namespaces or no system-call filters here")
    metadata = done.failure(step).user_failure_data.metadata
    assert metadata["violation"].value == kind
    assert metadata["severity"].value == severity
    assert metadata["enforcement"].value == backend


def test_a_limit_that_is_only_watched_is_a_warning_and_the_step_succeeds(rows):
    _, done = rows
    assert "STEP_SUCCESS" in done.kinds("sustained_cpu_watched")
    warned = [
        event.event_specific_data.metadata
        for event in done.events(DagsterEventType.ENGINE_EVENT, "sustained_cpu_watched")
        if "violation" in event.event_specific_data.metadata
    ]
    assert [metadata["severity"].value for metadata in warned] == ["medium"]
    assert warned[0]["violation"].value == CPU


def test_the_other_steps_of_the_run_go_on(rows):
    _, done = rows
    assert "STEP_SUCCESS" in done.kinds("one")
    assert "STEP_SUCCESS" in done.kinds("no_network_and_content")


def test_an_attempt_names_where_it_went(rows):
    if not NETWORK:
        pytest.skip("no network namespaces or no system-call filters here")
    _, done = rows
    assert "192.0.2.1:80 (AF_INET, connect)" in done.failure("network_by_tcp").error.message


def test_nothing_is_left_behind(rows):
    from secmon_dagster.limits.backends.hierarchy import find_hierarchies

    found = find_hierarchies()
    import os

    ours = f"secmon-{os.getpid()}-*"
    assert not [entry for base in found.version1.values() for entry in base.glob(ours)]


@pytest.fixture(scope="module")
def hostile(run):
    return run(jobs.hostile, config={"monitor_interval": 0.4, "max_concurrent": 3})


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
    ],
)
def test_a_step_that_ends_without_a_word_fails_with_how_it_ended(hostile, step, words):
    assert words in hostile.failure(step).error.message
    assert hostile.violation(step) is None


def test_killing_the_process_that_starts_steps_stops_neither_run_nor_steps(hostile):
    assert "STEP_SUCCESS" in hostile.kinds("kills_its_parent")
    assert "STEP_SUCCESS" in hostile.kinds("one")


def test_a_daemon_ends_with_its_step(hostile, instance):
    messages = [entry.user_message for entry in instance.all_logs(hostile.result.run_id)]
    [told] = [text for text in messages if text.startswith("daemon ")]
    from secmon_dagster.limits.proc import stat_of

    left = stat_of(int(told.split()[1]))
    assert left is None or left.state == "Z"


def test_success_is_not_believed_when_a_child_ran_out_of_memory(hostile):
    if not HARD:
        pytest.skip("sampling may look too late")
    assert hostile.violation("succeeds_while_a_child_is_out_of_memory") == MEMORY
    assert "STEP_SUCCESS" not in hostile.kinds("succeeds_while_a_child_is_out_of_memory")


def test_a_flood_of_events_arrives_whole(hostile, instance):
    messages = [entry.user_message for entry in instance.all_logs(hostile.result.run_id)]
    assert sum(len(text) for text in messages if text.startswith("xxx")) == 20 * jobs.MB
