"""A contract with Dagster: the private names the executor uses exist and take what we give."""

from __future__ import annotations

import inspect

import dagster
import dagster as dg
import pytest
from dagster import DagsterInstance
from dagster._core.execution.plan.outputs import StepOutputHandle

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


@dg.op(out=dg.DynamicOut(int))
def many():
    yield dg.DynamicOutput(1, mapping_key="a")
    yield dg.DynamicOutput(2, mapping_key="b")


@dg.op
def one(number: int) -> int:
    return number


@dg.op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@dg.job
def mapped():
    total(many().map(lambda each: one.alias("twice")(one(each))).collect())


def test_a_kept_connection_that_the_server_closed_is_made_anew(database, tmp_path):
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    with (
        DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance,
        internals.kept_connections(instance),
        database.admin() as connection,
    ):
        instance.get_runs_count()
        instance.all_logs("none")
        closed = connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
        assert (True,) in closed
        assert instance.get_runs_count() == 0
        assert instance.all_logs("none") == []


def test_a_step_is_told_only_what_it_asks_for():
    def put_out(step_key, mapping_key=None):
        return StepOutputHandle(step_key, "result", mapping_key)

    known = internals.KnownExecutionState(
        dynamic_mappings={"many": {"result": ["a", "b"]}},
        ready_outputs={
            *(put_out("many", "a"), put_out("many", "b")),
            *(put_out("one[a]"), put_out("one[b]"), put_out("twice[a]"), put_out("twice[b]")),
        },
        previous_retry_attempts={"one[a]": 1},
    )
    whole = internals.create_execution_plan(job=mapped, known_state=known)
    for key, mappings, ready in (
        ("many", ["a", "b"], set()),
        ("one[a]", ["a"], {put_out("many", "a")}),
        ("twice[b]", ["b"], {put_out("one[b]")}),
        ("total", ["a", "b"], {put_out("twice[a]"), put_out("twice[b]")}),
    ):
        step = whole.get_step_by_key(key)
        state = internals.state_for(step, whole, known)
        assert state.dynamic_mappings == {"many": {"result": mappings}}
        assert state.ready_outputs == ready
        assert state.get_retry_state().get_attempt_count("one[a]") == 1
        # And it is enough to plan the step by.
        told = internals.create_execution_plan(
            job=mapped, step_keys_to_execute=[key], known_state=state
        )
        assert told.get_step_by_key(key).step_inputs == step.step_inputs


def test_events_stored_together_are_those_stored_one_by_one(database, tmp_path):
    overrides = {"storage": {"postgres": {"postgres_url": database.url}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        with internals.held_events(instance) as held:
            for text in ("one", "two"):
                instance.report_engine_event(text, run_id="run", job_name="job")
            instance.report_runless_asset_event(dg.AssetMaterialization("table"))
            for text in ("three", "four"):
                instance.report_engine_event(text, run_id="run", job_name="job")
        assert len(held) == 5
        assert instance.all_logs("run") == []
        heard = []
        instance.add_event_listener("run", heard.append)
        internals.store_events(instance, held[:2])
        internals.store_events(instance, held[2:])
        stored = instance.all_logs("run")
        assert [entry.dagster_event.message for entry in stored] == ["one", "two", "three", "four"]
        assert stored == [held[0], held[1], held[3], held[4]]
        assert heard == stored
        assert instance.get_latest_materialization_event(dg.AssetKey("table")) == held[2]
        with internals.held_events(instance) as one_by_one:
            instance.report_engine_event("five", run_id="run", job_name="job")
        instance.handle_new_event(one_by_one[0])
        columns = "SELECT dagster_event_type, step_key, partition, asset_key FROM event_logs"
        with database.admin() as connection:
            rows = connection.execute(f"{columns} WHERE run_id = 'run'").fetchall()
        assert len(set(rows)) == 1
