"""From evidence to the one cause: a table, and its order."""

from __future__ import annotations

import pytest

from secmon_dagster.limits import DEFAULT_LIMITS, ResourceLimits, Severity, ViolationType
from secmon_dagster.limits.backends import Reading
from secmon_dagster.limits.evidence import Evidence, KillReason, cause, how_it_ended
from secmon_dagster.limits.suggest import suggest
from secmon_dagster.limits.violation import ResourceUsage
from secmon_dagster.limits.watched import CpuWindows, escalation

LIMITS = ResourceLimits.of(memory="64MiB", time=1, cpu=50).merge(DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("evidence", "reason", "kind", "severity"),
    [
        (Evidence(), None, None, None),
        (Evidence(), KillReason.INTERRUPT, None, None),
        (Evidence(), KillReason.SHUTDOWN, None, None),
        (Evidence(oom_kills=1), None, ViolationType.MEMORY_LIMIT_EXCEEDED, Severity.HIGH),
        (Evidence(oom_seen=True), None, ViolationType.MEMORY_LIMIT_EXCEEDED, Severity.HIGH),
        (
            Evidence(oom_kills=1),
            KillReason.TIME,
            ViolationType.MEMORY_LIMIT_EXCEEDED,
            Severity.HIGH,
        ),
        (Evidence(), KillReason.TIME, ViolationType.TIME_LIMIT_EXCEEDED, Severity.HIGH),
        (Evidence(), KillReason.CPU, ViolationType.CPU_LIMIT_EXCEEDED, Severity.HIGH),
        (Evidence(), KillReason.PROCESSES, ViolationType.UNAUTHORIZED_ACCESS, Severity.CRITICAL),
        (Evidence(), KillReason.NETWORK, ViolationType.UNAUTHORIZED_ACCESS, Severity.CRITICAL),
        (Evidence(), KillReason.PROTOCOL, ViolationType.UNAUTHORIZED_ACCESS, Severity.CRITICAL),
        (Evidence(), KillReason.ENTRY, ViolationType.INVALID_CONFIGURATION, Severity.CRITICAL),
    ],
)
def test_proof_of_memory_comes_first_then_our_own_reason(evidence, reason, kind, severity):
    found = cause(LIMITS, evidence, reason, enforcement="cgroup1")
    assert (found and found.type) == kind
    assert (found and found.severity) == severity


def test_a_memory_violation_names_limit_and_peak():
    evidence = Evidence(oom_kills=1, peak_memory_bytes=64 << 20)
    found = cause(LIMITS, evidence, None, enforcement="cgroup2")
    assert (found.limit, found.observed, found.unit) == (64 << 20, 64 << 20, "bytes")
    assert "64 MB" in found.message


@pytest.mark.parametrize(
    ("code", "number", "words"),
    [(3, None, "exited with 3"), (None, 11, "SIGSEGV"), (None, None, "without an exit status")],
)
def test_an_end_without_cause_is_told_as_it_was(code, number, words):
    assert words in how_it_ended(code, number)


def test_memory_is_ended_at_once_time_is_asked_first_and_a_cancelled_step_is_asked_twice():
    assert [step for _, step in escalation(KillReason.MEMORY, 0, 5)] == [None]
    assert escalation(KillReason.TIME, 0, 5)[1] == (5, None)
    assert [moment for moment, _ in escalation(KillReason.INTERRUPT, 0, 5)] == [0, 5, 10]


def test_saturation_is_sustained_after_three_windows_in_a_row():
    windows = CpuWindows(50)
    readings = [
        Reading(cpu_seconds=0.5 * n, periods=10 * n, throttled_periods=10 * n) for n in range(6)
    ]
    told = [windows.sustained(float(n), reading) for n, reading in enumerate(readings)]
    assert [value is not None for value in told] == [False, False, False, True, True, True]
    assert told[3] == pytest.approx(50)


def test_one_window_below_the_limit_starts_the_count_anew():
    windows = CpuWindows(50)
    used = [0.0, 0.9, 1.8, 1.9, 2.8, 3.7]
    told = [windows.sustained(float(n), Reading(cpu_seconds=s)) for n, s in enumerate(used)]
    assert told == [None] * 6


def test_a_suggestion_leaves_room_above_the_highest_use():
    history = [
        ResourceUsage(wall_seconds=40.0, cpu_seconds=10.0, peak_memory_bytes=100 << 20),
        ResourceUsage(wall_seconds=60.0, cpu_seconds=33.0, peak_memory_bytes=200 << 20),
    ]
    found = suggest("train", history)
    assert found.limits.max_memory_mb == 320
    assert found.limits.max_execution_time_ms == 90_000
    assert found.limits.max_cpu_percent == 60
    assert found.as_code() == 'limits(memory="320MiB", cpu=60, time="90s")'
    assert suggest("train", []) is None


def test_what_a_process_chose_to_be_said_of_it_fits_a_line_and_a_database():
    found = cause(
        LIMITS,
        Evidence(),
        KillReason.NETWORK,
        enforcement="cgroup2",
        detail="@a\0b\ud800\n" + "c" * 999,
    )
    assert found.message.isprintable()
    assert len(found.message) < 400
