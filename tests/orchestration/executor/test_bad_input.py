"""Configuration and jobs the executor can't run as they are: one clear reason, before any step."""

from __future__ import annotations

import jobs
import pytest
from dagster import DagsterEventType

from secmon_dagster.errors import InvalidLimitsError
from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor.config import CONFIG_SCHEMA, ExecutorConfig
from secmon_dagster.orchestration.executor.declared import NoOverrides, limits_of

# Its tests look at runs of the same instance as those of test_executor.
pytestmark = pytest.mark.xdist_group("executor-executor")

DEFAULTS = {
    name: field.default_value if field.default_provided else None
    for name, field in CONFIG_SCHEMA.items()
} | {"retries": {"enabled": {}}, "tag_concurrency_limits": [], "step_dependency_config": {}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"max_concurrent": -1}, "max_concurrent is -1; allowed: 1 or more"),
        ({"grace": -1.0}, "grace is -1"),
        ({"grace": float("nan")}, "grace"),
        ({"monitor_interval": 0.0}, "monitor_interval is 0"),
        ({"memory_budget": "lots"}, "memory_budget"),
        ({"memory_budget": "-1GiB"}, "memory_budget"),
        ({"default_limits": {"maxMemoryMB": 16}}, "max_memory_mb is 16; allowed: 32 MB or more"),
        ({"default_limits": {"memory": "16MB"}}, "maxMemoryMB"),
        ({"per_op_limits": {"train": {"maxCpuPercent": 101}}}, "max_cpu_percent is 101"),
    ],
)
def test_a_wrong_configuration_is_refused_naming_field_value_and_range(config, words):
    with pytest.raises(InvalidLimitsError, match=words):
        ExecutorConfig.read({**DEFAULTS, **config})


@pytest.mark.parametrize("tags", [{"secmon/limits": '{"maxMemoryMB": -5}'}, {"secmon/layer": "no"}])
def test_a_wrong_declaration_found_at_the_start_of_a_run_names_the_op(tags, database):
    with pytest.raises(InvalidLimitsError, match="op train: "):
        limits_of("train", tags, {}, NoOverrides())


def test_what_the_run_says_wins_over_the_op_and_the_op_over_the_defaults():
    config = ExecutorConfig.read(
        {
            **DEFAULTS,
            "default_limits": {"maxMemoryMB": 100, "maxCpuPercent": 10},
            "per_op_limits": {"train": {"maxMemoryMB": 300}},
        }
    )
    tags = limits(memory="200MiB", time="1m")
    found = limits_of("train", tags, {}, config)
    assert (found.max_memory_mb, found.max_execution_time_ms) == (300, 60_000)
    assert found.max_cpu_percent == 10
    assert limits_of("other", tags, {}, config).max_memory_mb == 200


def reason(done) -> str:
    [failed] = done.events(DagsterEventType.RUN_FAILURE)
    return failed.job_failure_data.error.message


def test_an_op_alone_over_the_memory_budget_is_refused_before_anything_runs(run):
    done = run(jobs.chain, config={"memory_budget": "1GiB"})
    assert "op one: max_memory_mb is 2048; allowed: up to the memory budget" in reason(done)
    assert done.events(DagsterEventType.STEP_WORKER_STARTING) == []


def test_a_run_that_requires_hard_limits_does_not_run_where_they_are_sampled(run):
    done = run(jobs.chain, config={"backend": "sampled", "require_hard_limits": True})
    assert "hard limits can't be had here" in reason(done)
    assert done.events(DagsterEventType.STEP_WORKER_STARTING) == []


def test_a_module_to_preload_that_does_not_import_is_named_by_each_step(run):
    done = run(jobs.chain, config={"preload_modules": ["nowhere.to.be.found"]})
    error = done.failure("one").error
    assert "preload_modules: 'nowhere.to.be.found' can't be imported" in error.message
    assert "STEP_START" not in done.kinds("one")
