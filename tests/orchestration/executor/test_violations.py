"""Every way a limit can be passed ends the step with the right violation, and only that step.

One run on PostgreSQL has an op for each way. What is said of each is looked for in every place it
must stand in: the event log, what the UI asks for, the audit chain, ``step_usage``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dagster as dg
import jobs
import pytest
from books import Recorded, recorded
from dagster import DagsterEventType

from secmon_dagster.limits import probe

# Its tests look at the same run, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-violations")

CAPABILITIES = probe()
HARD = CAPABILITIES.hard_limits
NETWORK = CAPABILITIES.network_namespaces and CAPABILITIES.seccomp_notify

MEMORY = "memory_limit_exceeded"
TIME = "time_limit_exceeded"
CPU = "cpu_limit_exceeded"
ACCESS = "unauthorized_access"


@dataclass(frozen=True)
class Row:
    """A way to pass a limit: its op, and what must be said of it."""

    step: str
    violation: str
    severity: str
    event_type: str
    limit: float
    evidence: str = ""
    """A counter that is above zero in the evidence of control groups."""
    words: str = ""


MB_64 = 64 * jobs.MB
ROWS = [
    Row("memory_in_the_op", MEMORY, "high", "job.memory_limit", MB_64, "oom_kill"),
    Row("memory_in_a_child", MEMORY, "high", "job.memory_limit", MB_64, "oom_kill"),
    Row(
        "memory_in_a_grandchild_that_forked_twice",
        *(MEMORY, "high", "job.memory_limit", MB_64, "oom_kill"),
    ),
    Row("memory_leaks_slowly", MEMORY, "high", "job.memory_limit", MB_64, "oom_kill"),
    Row("memory_in_files", MEMORY, "high", "job.memory_limit", MB_64, "oom_kill"),
    Row("time_in_python", TIME, "high", "job.timeout", 1),
    Row("time_in_c_holding_the_gil", TIME, "high", "job.timeout", 1),
    Row("time_ignoring_sigterm", TIME, "high", "job.timeout", 1),
    Row("sustained_cpu", CPU, "high", "resource.violation", 10, "nr_throttled"),
    Row("fork_bomb", ACCESS, "critical", "security.violation", 30, "forks_refused"),
    Row(
        "network_by_tcp",
        *(ACCESS, "critical", "security.violation", 0),
        words="192.0.2.1:80 (AF_INET, connect)",
    ),
    Row(
        "network_by_udp",
        *(ACCESS, "critical", "security.violation", 0),
        words="192.0.2.1:53 (AF_INET, sendto)",
    ),
    Row("network_by_dns", ACCESS, "critical", "security.violation", 0, words=":53 (AF_INET"),
    Row(
        "network_by_ipv6",
        *(ACCESS, "critical", "security.violation", 0),
        words="[2001:db8::1]:80 (AF_INET6, connect)",
    ),
    Row(
        "network_by_abstract_socket",
        *(ACCESS, "critical", "security.violation", 0),
        words="@secmon-test (AF_UNIX, connect)",
    ),
    Row(
        "network_by_a_name_no_database_can_hold",
        *(ACCESS, "critical", "security.violation", 0),
        words="@secmon\ufffdtest (AF_UNIX, connect)",
    ),
]
NOT_SAMPLED = {"memory_in_files"}  # files in memory belong to no process

# Where there is a better one, the sampled back end waits for --slow.
SAMPLED = pytest.param("sampled", marks=[pytest.mark.slow] if HARD else [])


@pytest.fixture(scope="module", params=[CAPABILITIES.backend, SAMPLED] if HARD else [SAMPLED])
def rows(new_database, tmp_path_factory, request):
    config = {
        "backend": request.param,
        "monitor_interval": 0.4,
        "max_concurrent": 4,
        "grace": 1.0,
    }
    with new_database() as database, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SECMON_DATABASE_URL", database.url)
        folder = tmp_path_factory.mktemp("rows")
        with recorded(jobs.rows, config, database, folder) as found:
            yield found


@pytest.fixture(params=ROWS, ids=[row.step for row in ROWS])
def row(request, rows):
    if rows.backend == "sampled" and request.param.step in NOT_SAMPLED:
        pytest.skip("sampling doesn't count files in memory, and says so")
    if request.param.step.startswith("network") and not NETWORK:
        pytest.skip("no network namespaces or no system-call filters here")
    return request.param


def checked(row: Row, backend: str, said: dict[str, Any]) -> None:
    """The same facts, whichever place said them."""
    assert said["violation"] == row.violation
    assert said["severity"] == row.severity
    assert said["enforcement"] == backend
    assert said["limit"] == row.limit
    if row.violation in (MEMORY, TIME):
        assert said["observed"] >= 0.9 * row.limit
    if row.evidence and backend != "sampled":
        assert said["evidence"][row.evidence] > 0


def test_the_step_fails_with_the_violation_its_severity_and_its_evidence(rows, row):
    failure = rows.run.failure(row.step)
    assert failure.user_failure_data.label == "resource-limit"
    metadata = failure.user_failure_data.metadata
    checked(row, rows.backend, {name: value.value for name, value in metadata.items()})
    assert row.words in failure.error.message


def test_an_engine_event_says_so_before_the_failure(rows, row):
    kinds = [
        (event.event_type, "violation" in event.event_specific_data.metadata)
        for event in rows.run.events(step=row.step)
        if event.event_type in (DagsterEventType.ENGINE_EVENT, DagsterEventType.STEP_FAILURE)
        and hasattr(event.event_specific_data, "metadata")
    ]
    assert kinds[0] == (DagsterEventType.ENGINE_EVENT, True)


def test_the_ui_is_given_it_as_metadata_of_the_failure(rows, row):
    shown = rows.shown[row.step]
    assert shown["label"] == "resource-limit"
    checked(row, rows.backend, shown["metadata"])


def test_the_audit_chain_has_an_entry_of_it(rows, row):
    [entry] = [
        entry
        for entry in rows.entries
        if entry["job_id"] == row.step and entry["metadata"]["action"] == "LIMIT_VIOLATION"
    ]
    assert (entry["event_type"], entry["level"]) == (row.event_type, "critical")
    details = entry["details"]
    checked(row, rows.backend, {**details, "violation": details["type"]})
    if row.violation == TIME:
        assert details["timeoutMs"] == 1000


def test_its_usage_is_kept_with_what_ended_it(rows, row):
    usage = rows.usage[row.step]
    assert (usage["outcome"], usage["violation"]) == ("failure", row.violation)
    assert usage["enforcement"] == rows.backend
    assert usage["wall_seconds"] > 0
    assert usage["user_id"] == "ada"


def test_a_limit_that_is_only_watched_is_a_warning_and_the_step_succeeds(rows):
    assert "STEP_SUCCESS" in rows.run.kinds("sustained_cpu_watched")
    warned = [
        event.event_specific_data.metadata
        for event in rows.run.events(DagsterEventType.ENGINE_EVENT, "sustained_cpu_watched")
        if "violation" in event.event_specific_data.metadata
    ]
    assert [metadata["severity"].value for metadata in warned] == ["medium"]
    assert warned[0]["violation"].value == CPU


def test_the_other_steps_of_the_run_go_on(rows):
    assert "STEP_SUCCESS" in rows.run.kinds("one")
    assert "STEP_SUCCESS" in rows.run.kinds("no_network_and_content")


def test_a_layer_that_denies_the_network_keeps_the_secrets_of_the_run_from_its_steps(rows):
    assert "STEP_SUCCESS" in rows.run.kinds("sees_the_secrets_of_the_run")
    if not CAPABILITIES.network_namespaces:
        pytest.skip("no network namespaces here")
    assert "STEP_SUCCESS" in rows.run.kinds("sees_no_secret_in_a_layer_without_network")


def test_the_run_fails_for_its_steps_and_not_for_an_exception(rows):
    [failed] = rows.run.events(DagsterEventType.RUN_FAILURE)
    assert failed.job_failure_data.failure_reason.value == "STEP_FAILURE"
    assert rows.run.instance.get_run_by_id(rows.run.result.run_id).status is (
        dg.DagsterRunStatus.FAILURE
    )


def test_the_run_and_its_steps_are_entries_of_a_chain_that_verifies(rows):
    found = {(entry["event_type"], entry["level"], entry["job_id"]) for entry in rows.entries}
    assert ("execution.start", "info", None) in found
    assert ("execution.failed", "error", None) in found
    assert ("job.start", "info", "one") in found
    assert ("job.complete", "info", "one") in found
    assert ("job.failed", "error", "time_in_python") in found
    assert rows.chain_is_valid
    assert rows.usage["one"]["outcome"] == "success"


def test_no_group_and_no_process_is_left(rows: Recorded):
    assert rows.groups_left == []
    assert rows.children_left == []
