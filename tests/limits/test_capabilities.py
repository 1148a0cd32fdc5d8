"""Which back end a machine gets, and why not a better one."""

from __future__ import annotations

import pytest

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits import capabilities
from secmon_dagster.limits.backends.hierarchy import Hierarchies


@pytest.fixture
def machine(monkeypatch):
    def is_like(**hierarchies):
        monkeypatch.setattr(capabilities, "find_hierarchies", lambda: Hierarchies(**hierarchies))

    return is_like


def version1(folder, *controllers):
    for controller in controllers:
        (folder / controller).mkdir()
        (folder / controller / "cgroup.procs").touch()
    return {controller: folder / controller for controller in controllers}


def test_without_any_groups_limits_are_sampled(machine):
    machine()
    assert capabilities.open_backend().name == "sampled"


def test_missing_controllers_are_named(machine, tmp_path):
    machine(version1=version1(tmp_path, "cpu", "cpuacct"))
    with pytest.raises(EnforcementUnavailableError, match="memory, pids"):
        capabilities.open_backend("cgroup1")


def test_a_group_that_is_not_ours_to_write_is_named(machine, tmp_path, monkeypatch):
    found = version1(tmp_path, "cpu", "cpuacct", "memory", "pids")
    machine(version1=found)
    # As root, who may write anything, permissions would not do.
    monkeypatch.setattr(capabilities, "writable", lambda folder: folder != found["pids"])
    with pytest.raises(EnforcementUnavailableError, match="pids is not ours to write") as refused:
        capabilities.open_backend("cgroup1")
    assert "secmon doctor" in refused.value.hint


def test_hard_limits_that_can_not_be_had_are_refused_with_each_reason(machine, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    machine(version1={}, version2=tmp_path)
    with pytest.raises(EnforcementUnavailableError, match="hard limits") as refused:
        capabilities.open_backend(require_hard_limits=True)
    assert "cgroup2: " in refused.value.message
    assert "no controller memory, pids" in refused.value.message
    assert "cgroup1: " in refused.value.message


def test_a_back_end_of_another_name_is_refused_with_those_there_are():
    with pytest.raises(EnforcementUnavailableError, match="auto, cgroup2, cgroup1, sampled"):
        capabilities.open_backend("docker")
