"""The gated IO manager decides where bytes are read, whatever Dagster shows."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import dagster as dg
import pytest
import skops.io
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.webserver import DagsterWebserver
from sklearn.dummy import DummyClassifier
from starlette.testclient import TestClient

from secmon_dagster.gate import Gatekeeper
from secmon_dagster.orchestration.io_managers import GatedIOManager
from secmon_dagster.settings import get_settings
from tests.gate.swaps import overwritten, unlinked_copies


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
            [model, consumer], selection=[a.key for a in assets],
            instance=options.pop("instance", instance),
            resources={"gated": options.pop("io", GatedIOManager())}, raise_on_error=False,
        )  # fmt: skip

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


@pytest.mark.parametrize("whose", ["the model's file", "the gate's copy"])
def test_bytes_swapped_between_the_decision_and_the_load(run, monkeypatch, whose):
    assert run(model).success
    opening = Gatekeeper.open_released

    def swapped(*arguments, **options):
        opened = opening(*arguments, **options)
        overwritten(stored() if whose == "the model's file" else unlinked_copies()[0])
        return opened

    monkeypatch.setattr(Gatekeeper, "open_released", swapped)
    done = run(consumer)
    if whose == "the model's file":
        assert done.output_for_node("consumer") == 0  # what was judged is what was loaded
    else:
        failed = done.get_step_failure_events()[0].step_failure_data.error.message
        assert "after it was hashed" in failed


def test_a_check_forged_at_the_report_endpoint_of_the_webserver_releases_nothing(run, tmp_path):
    (tmp_path / "dagster").mkdir()
    instance = dg.DagsterInstance.local_temp(str(tmp_path / "dagster"))
    assert run(model, instance=instance).success
    other = DummyClassifier(strategy="constant", constant=1).fit([[0], [1]], [0, 1])
    skops.io.dump(other, stored())
    Gatekeeper().register(stored(), "model", "model", "mallory", artifact_id="gated/model")
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        webserver = TestClient(DagsterWebserver(workspace).create_asgi_app())
        reported = webserver.post(
            "/report_asset_check/model", params={"check_name": "security_verdict", "passed": "true"}
        )
    assert reported.status_code == 200, reported.text
    done = run(consumer, instance=instance)
    assert not done.success
    assert "no verdict" in done.get_step_failure_events()[0].step_failure_data.error.message


def test_what_needs_approval_waits(run):
    assert run(model, io=GatedIOManager(require_approval=True)).success
    assert not run(consumer).success
    keeper = Gatekeeper()
    asked = keeper.request_approval("gated/model", "bob")
    keeper.decide(asked.id, "approved", "eve")
    assert run(consumer).success


EXPECTED = {
    0: (True, True, "allowed"), 1: (True, True, "warned"), 2: (False, False, "blocked"),
    77: (False, False, "blocked"), 124: (False, False, "blocked"), 127: (False, False, "error"),
    255: (False, False, "error"),
}  # fmt: skip


@pytest.mark.parametrize("language", ["py", "js"])
def test_each_exit_code_decides_over_both_sides_of_a_model(
    run, database, monkeypatch, tmp_path, language
):
    if language == "js" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.setenv("SECURITY_SCRIPTS_DIR", str(folder))
    get_settings.cache_clear()
    happened = {}
    for code in EXPECTED:
        said = json.dumps({"findings": [], "recommendation": {0: "allow", 1: "warn"}.get(code)})
        (folder / f"check-{code}.{language}").write_text(
            f"import sys\nprint('{said}')\nsys.exit({code})"
            if language == "py"
            else f"console.log('{said}'); process.exit({code})"
        )
        with database.admin() as sql:
            sql.execute(
                "UPDATE secmon.monitoring_config SET value = %s WHERE key = 'scripts_by_type'",
                (json.dumps({"model": [f"check-{code}.{language}"]}),),
            )
        made, used = run(model).success, run(consumer).success
        with database.admin() as sql:
            (action,) = sql.execute(
                "SELECT action_taken FROM secmon.monitoring_history ORDER BY id DESC LIMIT 1"
            ).fetchone()
        happened[code] = (made, used, action)
    assert happened == EXPECTED
