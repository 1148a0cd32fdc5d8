"""Declaring limits: what is accepted, what is refused and how, tags and JSON there and back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.errors import InvalidLimitsError
from secmon_dagster.limits import DEFAULT_LIMITS, ResourceLimits, layer_limits, limits, tightened


def test_what_people_write_becomes_tags_that_read_back():
    tags = limits(memory="512MiB", cpu=80, time="10m", network=False)
    assert json.loads(tags["secmon/limits"]) == {
        "maxMemoryMB": 512.0,
        "maxCpuPercent": 80.0,
        "maxExecutionTimeMs": 600_000.0,
        "allowNetwork": False,
    }
    assert ResourceLimits.from_tags(tags) == ResourceLimits.of(
        memory="512MiB", cpu=80, time="10m", network=False
    )


def test_tags_that_say_nothing_of_limits_declare_none():
    assert ResourceLimits.from_tags({"dagster/priority": "3"}) is None


@pytest.mark.parametrize(
    ("text", "megabytes"), [("512MiB", 512), ("2GB", 2048), ("1.5g", 1536), ("65536 KiB", 64)]
)
def test_sizes_are_binary_however_they_are_spelled(text, megabytes):
    assert ResourceLimits.of(memory=text).max_memory_mb == megabytes


@pytest.mark.parametrize(
    ("value", "milliseconds"), [("90s", 90_000), ("1h30m", 5_400_000), ("250ms", 250), (2.5, 2500)]
)
def test_durations_are_read_with_their_units(value, milliseconds):
    assert ResourceLimits.of(time=value).max_execution_time_ms == milliseconds


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ({"memory": "512"}, "memory"),
        ({"memory": 512}, "unit"),
        ({"memory": "-5MiB"}, "memory"),
        ({"memory": "33GiB"}, "32768"),
        ({"memory": "16MiB"}, "32 MB or more"),
        ({"cpu": 0}, "max_cpu_percent"),
        ({"cpu": 101}, "100 percent of one core"),
        ({"cpu": math.nan}, "cpu"),
        ({"cpu": True}, "cpu"),
        ({"time": "25h"}, "24 h"),
        ({"time": 0}, "max_execution_time_ms"),
        ({"time": "10m5m"}, "time"),
        ({"time": "soon"}, "time"),
        ({"processes": 0}, "max_processes"),
        ({"processes": 1.5}, "whole number"),
        ({"network": "no"}, "true or false"),
        ({"also_for": ("mesos",)}, "k8s"),
    ],
)
def test_a_wrong_limit_is_refused_naming_field_value_and_range(declaration, words):
    with pytest.raises(InvalidLimitsError, match=words):
        limits(**declaration)


def test_the_json_form_of_the_third_seed_is_accepted():
    parsed = ResourceLimits.from_json(
        '{"maxExecutionTimeMs": 60000, "maxMemoryMB": 1024, "maxCpuPercent": 80,'
        ' "enforceMemoryLimit": true, "enforceCpuLimit": true, "enforceTimeLimit": true}'
    )
    assert (parsed.max_execution_time_ms, parsed.max_memory_mb) == (60_000, 1024)
    assert parsed.enforce_cpu_limit is True


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"maxMemory": 5}', "maxMemoryMB"),
        ('{"maxMemoryMB": "5"}', "max_memory_mb"),
        ('{"maxCpuPercent": -1}', "max_cpu_percent"),
    ],
)
def test_a_wrong_json_form_is_refused(document, words):
    with pytest.raises(InvalidLimitsError, match=words):
        ResourceLimits.from_json(document)


def test_partial_declarations_are_completed_from_the_defaults():
    merged = ResourceLimits(max_memory_mb=64).merge(DEFAULT_LIMITS)
    assert merged.max_memory_mb == 64
    assert merged.max_execution_time_ms == 3_600_000
    assert merged.max_cpu_percent == 80
    assert merged.enforce_time_limit is True


declared = st.builds(
    ResourceLimits,
    max_execution_time_ms=st.none() | st.floats(1, 86_400_000),
    max_memory_mb=st.none() | st.floats(32, 32_768),
    max_cpu_percent=st.none() | st.floats(0.1, 100),
    max_processes=st.none() | st.integers(1, 100_000),
    allow_network=st.none() | st.booleans(),
    enforce_memory_limit=st.none() | st.booleans(),
)


@given(declared)
def test_tags_and_json_lose_nothing(one):
    assert ResourceLimits.from_tags(one.to_tags()) == one
    assert ResourceLimits.from_json(one.to_json()) == one


@given(declared, declared)
def test_merging_never_changes_what_is_declared(one, other):
    merged = one.merge(other).to_json()
    assert all(merged[key] == value for key, value in one.to_json().items())


@given(declared, declared)
def test_a_layer_only_tightens(one, layer):
    both = tightened(one, layer)
    for name in ("max_execution_time_ms", "max_memory_mb", "max_cpu_percent", "max_processes"):
        values = [v for v in (getattr(one, name), getattr(layer, name)) if v is not None]
        assert getattr(both, name) == min(values, default=None)
    if layer.allow_network is False:
        assert both.allow_network is False


def test_the_strict_layer_is_smaller_than_the_default_and_has_no_network():
    strict, default = layer_limits("strict"), layer_limits("default")
    assert (default.max_execution_time_ms, default.max_memory_mb) == (300_000, 512)
    assert (strict.max_execution_time_ms, strict.max_memory_mb) == (180_000, 256)
    assert (default.allow_network, strict.allow_network) == (True, False)


def test_an_unknown_layer_is_refused_with_those_there_are():
    with pytest.raises(InvalidLimitsError, match="default, strict"):
        layer_limits("lax")


def test_other_executors_get_the_limits_in_their_own_words():
    tags = limits(
        memory="512MiB", cpu=50, time="10m", network=False, also_for=("k8s", "ecs", "ray")
    )
    k8s = json.loads(tags["dagster-k8s/config"])
    assert k8s["container_config"]["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
    assert k8s["job_spec_config"] == {"active_deadline_seconds": 600}
    assert k8s["pod_template_spec_metadata"] == {"labels": {"secmon/network": "none"}}
    assert (tags["ecs/cpu"], tags["ecs/memory"]) == ("512", "512")
    assert json.loads(tags["dagster-ray/config"]) == {"memory": 536_870_912, "num_cpus": 0.5}
