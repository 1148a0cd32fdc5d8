"""``SecurityManager``, with the seven behaviours the third seed lists."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from secmon_dagster.errors import AuditError
from secmon_dagster.limits import (
    DEFAULT_LIMITS,
    ResourceLimits,
    SecurityManager,
    Severity,
    ViolationType,
)


class Recorded:
    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def append_entry(
        self, action, actor, resource_type, resource_id=None, data=None, details=None, **rest
    ):
        self.entries.append({"action": action, "data": data, "details": details, **rest})
        return f"entry-{len(self.entries)}"


@pytest.fixture
def manager():
    return SecurityManager(Recorded(), interval=0.1)


@pytest.fixture
def busy():
    code = "x = bytearray(120 << 20)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    time.sleep(0.5)
    yield process.pid
    process.kill()
    process.wait()


def test_limits_in_range_are_valid_and_each_wrong_one_is_named(manager):
    assert manager.validate_resource_limits({"maxMemoryMB": 1024}) == (True, [])
    valid, errors = manager.validate_resource_limits(
        {"maxExecutionTimeMs": -1, "maxMemoryMB": 50_000, "maxCpuPercent": 150}
    )
    assert not valid
    assert len(errors) == 3


def test_use_within_the_limits_is_no_violation(manager, busy):
    manager.start_resource_monitoring("calm", ResourceLimits.of(memory="4GiB", cpu=100), pid=busy)
    assert manager.check("calm") == []
    manager.stop_resource_monitoring("calm")


def test_memory_over_the_limit_is_of_high_severity(manager, busy):
    manager.start_resource_monitoring("fat", ResourceLimits.of(memory="64MiB"), pid=busy)
    manager.check("fat")
    [found] = [v for v in manager.get_violations() if v.type is ViolationType.MEMORY_LIMIT_EXCEEDED]
    assert found.severity is Severity.HIGH
    assert found.observed > 100 * 2**20
    manager.stop_resource_monitoring("fat")


def test_cpu_over_the_limit_is_of_medium_severity(manager, busy):
    manager.start_resource_monitoring("hot", ResourceLimits.of(cpu=1), pid=busy)
    until = time.monotonic() + 20
    while time.monotonic() < until and not manager.get_execution_violations("hot"):
        time.sleep(0.05)
    kinds = {v.type: v.severity for v in manager.get_execution_violations("hot")}
    assert kinds[ViolationType.CPU_LIMIT_EXCEEDED] is Severity.MEDIUM
    manager.stop_resource_monitoring("hot")


def test_time_over_the_limit_is_told_once_to_whoever_asked(manager, busy):
    told = []
    manager.start_resource_monitoring("late", ResourceLimits.of(time=0.05), told.append, pid=busy)
    until = time.monotonic() + 20
    while time.monotonic() < until and not told:
        time.sleep(0.05)
    time.sleep(0.3)
    manager.stop_resource_monitoring("late")
    assert [v.type for v in told].count(ViolationType.TIME_LIMIT_EXCEEDED) == 1
    assert told[0].execution_id == "late"


def test_events_and_violations_are_written_to_the_audit_sink(busy):
    sink = Recorded()
    manager = SecurityManager(sink, interval=60)
    assert manager.log_audit_event("execution.start", execution_id="e") == "entry-1"
    manager.start_resource_monitoring("e", ResourceLimits.of(memory="64MiB"), pid=busy)
    manager.check("e")
    manager.stop_resource_monitoring("e")
    assert sink.entries[0]["event_type"] == "execution.start"
    assert sink.entries[1]["level"] == "critical"
    assert sink.entries[1]["data"]["type"] == "memory_limit_exceeded"


def test_violations_are_remembered_by_execution_until_cleared(manager, busy):
    manager.start_resource_monitoring("one", ResourceLimits.of(memory="64MiB"), pid=busy)
    manager.check("one")
    assert manager.get_execution_violations("one")
    assert manager.get_execution_violations("two") == []
    manager.stop_resource_monitoring("one")
    manager.clear_violations()
    assert manager.get_violations() == []


def test_without_a_declaration_the_defaults_apply(manager, busy):
    manager.start_resource_monitoring("default", pid=busy)
    assert manager.check("default") == []
    assert DEFAULT_LIMITS.max_memory_mb == 2048
    manager.stop_resource_monitoring("default")


class Away:
    def append_entry(self, *_, **__):
        raise AuditError("the chain is away")


def test_a_callback_that_fails_ends_neither_the_watching_nor_what_is_told_to_others(caplog):
    manager = SecurityManager(Away(), interval=0.1)
    told = []

    def fails(violation):
        told.append("first")
        raise ValueError("on purpose")

    over = ResourceLimits.of(time=0.001)
    manager.start_resource_monitoring("first", over, fails)
    until = time.monotonic() + 15
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    manager.start_resource_monitoring("second", over, lambda _: told.append("second"))
    while "second" not in told and time.monotonic() < until:
        time.sleep(0.01)
    for execution in ("first", "second"):
        manager.stop_resource_monitoring(execution)
    assert set(told) == {"first", "second"}
    assert "the chain is away" in caplog.text


def test_the_limits_to_watch_may_be_in_the_json_form(manager):
    manager.start_resource_monitoring("seed", {"maxExecutionTimeMs": 1, "enforceTimeLimit": True})
    until = time.monotonic() + 15
    while not (found := manager.get_execution_violations("seed")) and time.monotonic() < until:
        time.sleep(0.01)
    assert ViolationType.TIME_LIMIT_EXCEEDED in {violation.type for violation in found}
    manager.stop_resource_monitoring("seed")
