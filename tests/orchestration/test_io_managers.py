"""The gated IO manager decides where bytes are read, whatever Dagster shows."""

from __future__ import annotations

import os
import pickle

import dagster as dg
import pytest
import skops.io
from sklearn.dummy import DummyClassifier

from secmon_dagster.gate import Gatekeeper
from secmon_dagster.orchestration.io_managers import GatedIOManager


class Innocent:
    def __reduce__(self):
        return os.system, ("true",)


@dg.asset(io_manager_key="gated")
def model() -> DummyClassifier:
    return DummyClassifier().fit([[0], [1]], [0, 1])


@dg.asset
def consumer(model: DummyClassifier) -> int:
    return int(model.predict([[0]])[0])


@pytest.fixture
def run(database):
    instance = dg.DagsterInstance.ephemeral()

    def materialise(*assets, **options) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [model, consumer], selection=[a.key for a in assets], instance=instance,
            resources={"gated": options.pop("io", GatedIOManager())}, raise_on_error=False,
        )  # fmt: skip

    materialise.instance = instance
    return materialise


def stored():
    return Gatekeeper().find("gated/model").path


def test_what_passes_is_loaded(run):
    done = run(model, consumer)
    assert done.success
    assert done.output_for_node("consumer") == 0
    (event,) = done.get_asset_materialization_events()[:1]
    assert event.materialization.metadata["gate_action"].value == "allowed"


def test_a_file_swapped_between_the_steps_is_not_loaded_by_a_run_of_the_consumer_alone(run):
    assert run(model).success
    stored().write_bytes(pickle.dumps(Innocent()))
    done = run(consumer)
    assert not done.success
    failed = done.get_step_failure_events()[0].step_failure_data.error.message
    assert "was registered" in failed


def test_a_forged_check_event_releases_nothing(run):
    assert run(model).success
    other = DummyClassifier(strategy="constant", constant=1).fit([[0], [1]], [0, 1])
    skops.io.dump(other, stored())
    Gatekeeper().register(stored(), "model", "model", "mallory", artifact_id="gated/model")
    run.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=model.key, check_name="security_verdict", passed=True, metadata={}
        )
    )
    done = run(consumer)
    assert not done.success
    assert "no verdict" in done.get_step_failure_events()[0].step_failure_data.error.message


def test_what_needs_approval_waits(run):
    assert run(model, io=GatedIOManager(require_approval=True)).success
    assert not run(consumer).success
    keeper = Gatekeeper()
    asked = keeper.request_approval("gated/model", "bob")
    keeper.decide(asked.id, "approved", "eve")
    assert run(consumer).success
