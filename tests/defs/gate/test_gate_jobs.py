"""The jobs and sensors that watch the gate."""

from __future__ import annotations

import gzip
import json

import dagster as dg
import pytest
import skops.io
from sklearn.dummy import DummyClassifier

from secmon_dagster.defs.gate.upkeep import gate_history_cleanup, gate_rescan, stale_verdicts
from secmon_dagster.defs.gate.watch import blocked_artifacts, granted_approvals
from secmon_dagster.gate import Gatekeeper
from secmon_dagster.gate.upkeep import stale_artifacts
from secmon_dagster.settings import get_settings


@pytest.fixture
def keeper(database) -> Gatekeeper:
    return Gatekeeper()


@pytest.fixture
def artifact(keeper, tmp_path):
    path = tmp_path / "model.skops"
    skops.io.dump(DummyClassifier().fit([[0], [1]], [0, 1]), path)
    return keeper.register(path, "model", "model", "ann")


def test_a_changed_policy_makes_the_sensor_ask_for_a_re_scan_once(keeper, artifact, database):
    keeper.check(artifact.id)
    with dg.build_sensor_context() as context:
        assert isinstance(stale_verdicts(context), dg.SkipReason)
        with database.admin() as sql:
            sql.execute(
                "UPDATE secmon.monitoring_config SET value = '[\"a.B\"]' WHERE key = 'allow'"
            )
        assert isinstance(stale_verdicts(context), dg.RunRequest)
        assert isinstance(stale_verdicts(context), dg.SkipReason)
    assert stale_artifacts() == [artifact.id]
    assert gate_rescan.execute_in_process().success
    assert stale_artifacts() == []


def test_a_blocked_artifact_becomes_an_observation_and_an_alert(keeper, tmp_path, database):
    with dg.build_sensor_context() as context:
        assert isinstance(blocked_artifacts(context), dg.SkipReason)
        path = tmp_path / "x.bin"
        path.write_bytes(b"\x7fELF" + bytes(60))
        verdict = keeper.check(keeper.register(path, "weights", "model", "ann").id)
        result = blocked_artifacts(context)
    (event,) = result.asset_events
    assert event.metadata["check_id"].value == verdict.check_id
    with database.admin() as sql:
        told = sql.execute("SELECT source, subject_id, payload FROM secmon.alert_outbox").fetchall()
    assert told[0][:2] == ("gate", verdict.result.artifact_id)
    assert told[0][2]["rules"] == ["executable"]


def test_a_granted_approval_asks_for_the_release_of_its_model(keeper, artifact, database):
    with database.admin() as sql:
        sql.execute(
            "INSERT INTO secmon.models (model_id, version, artifact_id, estimator) "
            "VALUES ('iris', '1', %s, 'dummy')", (artifact.id,),
        )  # fmt: skip
    asked = keeper.request_approval(artifact.id, "bob")
    with dg.build_sensor_context() as context:
        assert isinstance(granted_approvals(context), dg.SkipReason)
        keeper.decide(asked.id, "approved", "eve")
        (request,) = granted_approvals(context).run_requests
    assert request.run_key == f"approval:{asked.id}"
    assert request.asset_selection[0] == dg.AssetKey(["iris", "release"])


def test_history_leaves_the_table_after_ninety_days_and_not_before(keeper, artifact, database):
    keeper.check(artifact.id)
    keeper.check(artifact.id)
    with database.admin() as sql:
        sql.execute("ALTER TABLE secmon.monitoring_history DISABLE TRIGGER USER")
        sql.execute(
            "UPDATE secmon.monitoring_history SET executed_at = now() - interval '91 days' "
            "WHERE id = (SELECT min(id) FROM secmon.monitoring_history)"
        )
        sql.execute("ALTER TABLE secmon.monitoring_history ENABLE TRIGGER USER")
        assert gate_history_cleanup.execute_in_process().success
        assert sql.execute("SELECT count(*) FROM secmon.monitoring_history").fetchone() == (1,)
    (file,) = (get_settings().home / "archive").iterdir()
    (line,) = gzip.decompress(file.read_bytes()).splitlines()
    assert json.loads(line)["artifact_id"] == artifact.id
