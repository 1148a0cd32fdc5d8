from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from secmon_dagster import training
from secmon_dagster.audit import Query, get_audit_logger
from secmon_dagster.orchestration.components.monitored_model import model_assets
from secmon_dagster.orchestration.tables import TableIOManager
from secmon_dagster.training import DataSource, Estimator, ModelSpec
from tests.gate.swaps import overwritten, unlinked_copies


def spec(**changes) -> ModelSpec:
    values = {
        "model_id": "flowers",
        "data": DataSource(sklearn="iris"),
        "estimator": Estimator(name="sklearn.tree.DecisionTreeClassifier"),
        **changes,
    }
    return ModelSpec(**values)


def materialize(model: ModelSpec, instance: dg.DagsterInstance, *, only: list[str] | None = None):
    return dg.materialize(
        model_assets(model),
        selection=None if only is None else [dg.AssetKey([model.model_id, name]) for name in only],
        resources={"tables": TableIOManager()},
        instance=instance,
        raise_on_error=False,
        tags={"secmon/user": "ada"},
    )


def failed_steps(result) -> dict[str, str]:
    texts = {}
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error.cause is not None:
                error = error.cause
            texts[event.step_key.rpartition("__")[2]] = error.message
    return texts


def rows(database, query: str):
    with database.admin() as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def released(database, home, instance):
    result = materialize(spec(), instance)
    assert result.success, failed_steps(result)
    return result


def test_a_declared_model_is_trained_gated_released_and_profiled(database, home, released):
    ((artifact, estimator, metrics, versions, when),) = rows(
        database,
        "SELECT artifact_id, estimator, metrics, library_versions, released_at FROM secmon.models",
    )
    assert estimator == "sklearn.tree.DecisionTreeClassifier"
    assert {"accuracy", "roc_auc", "cross_validated_accuracy"} <= set(metrics)
    assert set(versions) == {"python", "scikit-learn", "numpy", "pandas", "skops"}
    assert when is not None
    ((path, digest, size, sensitive, uploader),) = rows(
        database,
        "SELECT path, sha256, size_bytes, is_sensitive, uploaded_by FROM secmon.artifacts",
    )
    assert Path(path).stat().st_size == size and sensitive and uploader == "ada"
    assert len(digest) == 64 and artifact.startswith("flowers-")
    current = home / "released" / "flowers" / "current.json"
    assert current.exists()
    assert {path.suffix for path in current.parent.iterdir()} == {".json", ".skops"}
    ((profiled,),) = rows(database, "SELECT count(*) FROM secmon.drift_baselines")
    assert profiled == 4


def test_every_act_stands_in_the_chain_with_its_actor(database, released):
    chain = get_audit_logger()
    while chain.sequence():
        pass
    acts = [entry.action for entry in chain.find(Query(actor="ada"))]
    assert acts.index("MODEL_TRAINED") < acts.index("MODEL_RELEASED")
    assert chain.verify_chain()["valid"] is True


def test_the_evaluation_shows_table_pictures_and_a_number_a_metric(released):
    (event,) = [
        event
        for event in released.get_asset_materialization_events()
        if event.asset_key.path[-1] == "evaluation"
    ]
    metadata = event.materialization.metadata
    assert isinstance(metadata["accuracy"], dg.FloatMetadataValue)
    assert "| roc_auc |" in metadata["metrics"].md_str
    assert "data:image/png" in metadata["confusion_matrix"].md_str
    assert "data:image/png" in metadata["roc"].md_str


def test_the_verdict_shows_as_an_asset_check(released):
    (evaluation,) = released.get_asset_check_evaluations()
    assert evaluation.passed and evaluation.check_name == "security_verdict"


def test_bytes_swapped_after_the_verdict_are_not_released(database, home, instance, released):
    ((path,),) = rows(database, "SELECT path FROM secmon.artifacts")
    before = sorted((home / "released" / "flowers").iterdir())
    Path(path).write_bytes(Path(path).read_bytes() + b"x")
    again = materialize(spec(), instance, only=["release"])
    assert not again.success
    assert "SHA-256" in failed_steps(again)["release"]
    assert sorted((home / "released" / "flowers").iterdir()) == before


@pytest.mark.parametrize("whose", ["the model's file", "the gate's copy"])
def test_bytes_swapped_while_they_are_released(
    database, home, instance, released, monkeypatch, whose
):
    ((path,),) = rows(database, "SELECT path FROM secmon.artifacts")
    good = Path(path).read_bytes()
    (before,) = (home / "released" / "flowers").glob("*.skops")
    before.unlink()
    publish = training.publish

    def swapped(*arguments):
        overwritten(Path(path) if whose == "the model's file" else unlinked_copies()[0])
        return publish(*arguments)

    monkeypatch.setattr(training, "publish", swapped)
    again = materialize(spec(), instance, only=["release"])
    if whose == "the model's file":
        assert again.success
        assert before.read_bytes() == good
    else:
        assert "after it was hashed" in failed_steps(again)["release"]
        assert list(before.parent.glob("*.skops")) == []


def test_a_model_that_needs_approval_is_not_released_without_one(database, home, instance):
    result = materialize(spec(require_approval=True), instance)
    assert "approval of a second person" in failed_steps(result)["release"]
    assert rows(database, "SELECT released_at FROM secmon.models") == [(None,)]
    assert not (home / "released").exists()


@pytest.mark.parametrize(
    ("declared", "step", "expected"),
    [
        ({"target": "species"}, "features", "has no column species"),
        ({"data": DataSource(path="/nowhere/rows.csv")}, "raw", "rows.csv can't be read"),
        ({"estimator": Estimator(name="sklearn.nowhere.X")}, "model", "doesn't exist"),
    ],
)
def test_a_wrong_declaration_fails_in_its_step_and_leaves_nothing_half_written(
    database, home, instance, declared, step, expected
):
    result = materialize(spec(**declared), instance)
    assert not result.success
    assert expected in failed_steps(result)[step]
    assert rows(database, "SELECT count(*) FROM secmon.models") == [(0,)]
    assert rows(database, "SELECT count(*) FROM secmon.artifacts") == [(0,)]
    assert not (home / "released").exists()


def test_no_space_for_the_model_file_leaves_no_row(database, home, instance, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.store.os, "fsync", full)
    monkeypatch.setattr(TableIOManager, "handle_output", _keep_in_memory)
    monkeypatch.setattr(TableIOManager, "load_input", _from_memory)
    result = materialize(spec(), instance)
    reason = failed_steps(result)["model"]
    assert "No space to store" in reason and "point SECMON_HOME to a larger disk" in reason
    assert rows(database, "SELECT count(*) FROM secmon.models") == [(0,)]
    assert list((home / "artifacts" / "models" / "flowers").iterdir()) == []


_memory: dict[tuple[str, ...], object] = {}


def _keep_in_memory(self, context, obj) -> None:
    _memory[tuple(context.asset_key.path)] = obj


def _from_memory(self, context) -> object:
    return _memory[tuple(context.asset_key.path)]
