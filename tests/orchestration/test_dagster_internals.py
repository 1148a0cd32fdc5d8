"""A contract with Dagster: the private names the executor uses exist and take what we give."""

from __future__ import annotations

import inspect

import dagster
import pytest
from dagster import DagsterInstance

from secmon_dagster.orchestration import dagster_internals as internals

SIGNATURES = {
    "ActiveExecution": {
        *("execution_plan", "retry_mode", "max_concurrent", "tag_concurrency_limits"),
        *("instance_concurrency_context", "step_dependency_config"),
    },
    "InstanceConcurrencyContext": {"instance", "dagster_run"},
    "create_context_free_log_manager": {"instance", "dagster_run"},
    "create_execution_plan": {
        *("job", "run_config", "step_keys_to_execute", "known_state", "repository_load_data"),
    },
    "execute_plan_iterator": {
        *("execution_plan", "job", "dagster_run", "instance", "retry_mode", "run_config"),
    },
    "serialize_value": {"val"},
    "deserialize_value": {"val", "as_type"},
}


def test_dagster_is_of_the_minor_version_whose_private_names_are_used():
    assert dagster.__version__.startswith("1.13.")


@pytest.mark.parametrize("name", internals.__all__)
def test_every_private_name_is_there(name):
    assert getattr(internals, name) is not None


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_private_functions_take_the_arguments_we_give(name):
    parameters = set(inspect.signature(getattr(internals, name)).parameters)
    assert SIGNATURES[name] <= parameters


@pytest.mark.parametrize(
    "name",
    [
        *("check_for_interrupts", "concurrency_event_iterator", "get_known_state"),
        *("get_steps_to_execute", "handle_event", "is_complete", "mark_interrupted"),
        *("plan_events_iterator", "sleep_interval", "verify_complete"),
    ],
)
def test_the_state_machine_of_a_run_has_the_methods_we_call(name):
    assert hasattr(internals.ActiveExecution, name)


def test_events_can_be_diverted_from_an_instance():
    stored = []
    with DagsterInstance.ephemeral() as instance:
        internals.divert_events(instance, stored.append)
        instance.report_engine_event("hello", run_id="run", job_name="job")
    assert [entry.dagster_event.message for entry in stored] == ["hello"]


def test_kept_connections_are_given_back(database, tmp_path):
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        before = instance.event_log_storage._engine
        with internals.kept_connections(instance):
            assert instance.event_log_storage._engine is not before
            assert instance.get_runs() == []
        assert instance.event_log_storage._engine is before
