"""A declared monitor from its YAML to the red check and the alert at a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import ValidationError

from secmon_dagster.database import transaction
from secmon_dagster.defs.drift.alerts import alert_delivery_sensor, drift_alert_sensor
from secmon_dagster.defs.drift.checks import CHECK_TAG, drift_check_job, drift_due_sensor
from secmon_dagster.drift import DriftCheckResult, profile, save_baseline
from secmon_dagster.drift.history import check_of
from secmon_dagster.drift.registry import ModelDriftConfig, list_models, register, registered
from secmon_dagster.orchestration.components.drift_monitor import DriftMonitor, Monitor
from secmon_dagster.orchestration.drift_runs import DECLARATION, asset_key, check_model
from secmon_dagster.settings import get_settings
from tests.drift_data import frame, scored


@pytest.fixture
def instance(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "")  # told already: no probe of the machine
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    got: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append({"body": json.loads(body), "headers": dict(self.headers), "raw": body})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MONITORING_ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    monkeypatch.setenv("SECMON_ALERT_ALLOW_PRIVATE_ADDRESSES", "true")
    get_settings.cache_clear()
    yield got
    server.shutdown()
    server.server_close()


def definitions(folder: Path, **given: Any) -> dg.Definitions:
    frame(seed=1).to_parquet(folder / "reference.parquet")
    monitor = Monitor.model_validate(
        {
            "model_id": "churn",
            "schedule": "hourly",
            "reference": {"path": str(folder / "reference.parquet")},
            "window": {"path": str(folder / "current.parquet")},
            **given,
        }
    )
    made = DriftMonitor(monitor).build_defs(dg.ComponentTree.for_test().load_context)
    return dg.Definitions.merge(
        made, dg.Definitions(jobs=[drift_check_job], sensors=[drift_due_sensor])
    )


def tick(instance: dg.DagsterInstance, code: dg.Definitions) -> list[dg.RunRequest]:
    context = dg.build_sensor_context(instance=instance, repository_def=code.get_repository_def())
    result = drift_due_sensor(context)
    assert isinstance(result, dg.SensorResult)
    for request in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions("drift_models", list(request.partition_keys))
    return list(result.run_requests or [])


def make_due(model_id: str = "churn") -> None:
    with transaction() as connection:
        connection.execute(
            "UPDATE drift_models SET next_due = date_trunc('hour', now()) WHERE model_id = %s",
            (model_id,),
        )


def run(
    instance: dg.DagsterInstance, code: dg.Definitions, request: dg.RunRequest
) -> dg.ExecuteInProcessResult:
    return code.get_job_def("drift_check_job").execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        tags=dict(request.tags),
        raise_on_error=False,
    )


def test_from_yaml_to_a_red_check_and_an_alert_at_a_server(
    instance: dg.DagsterInstance, tmp_path: Path, received: list[dict[str, Any]]
) -> None:
    code = definitions(tmp_path)
    assert tick(instance, code) == []
    assert instance.get_dynamic_partitions("drift_models") == ["churn"]
    frame(seed=2, shift=2.0).to_parquet(tmp_path / "current.parquet")
    make_due()
    (request,) = tick(instance, code)
    assert request.run_key == f"churn:{request.tags['secmon/drift_due']}"
    assert tick(instance, code) == []
    assert run(instance, code, request).success

    check = check_of(request.tags[CHECK_TAG])
    assert check.alert_level == "CRITICAL"
    shown = instance.get_latest_materialization_event(asset_key("churn"))
    assert shown is not None and shown.asset_materialization is not None
    metadata = shown.asset_materialization.metadata
    assert metadata["psi/amount"].value > 0.25
    assert metadata["psi/age"].value < 0.1
    page = Path(str(metadata["report"].value)).read_bytes()
    assert b"<svg" in page and len(page) < 500_000
    evaluation = instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(asset_key("churn"), "drift")
    )
    assert evaluation is not None and evaluation.event is not None
    found = evaluation.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)

    seen = drift_alert_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(seen, dg.SensorResult) and len(seen.run_requests or []) == 1
    alert_delivery_sensor(dg.build_sensor_context(instance=instance))
    assert [each["body"]["metadata"]["event_payload"]["check_id"] for each in received] == [
        check.check_id
    ]
    assert "CRITICAL" in received[0]["body"]["text"]


def test_a_window_that_cannot_be_read_fails_its_run_with_one_sentence(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    code = definitions(tmp_path)
    tick(instance, code)
    make_due()
    (request,) = tick(instance, code)
    result = run(instance, code, request)
    assert not result.success
    check = check_of(request.tags[CHECK_TAG])
    assert check.status == "failed"
    assert check.error_message is not None and "current.parquet" in check.error_message
    evaluation = instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(asset_key("churn"), "drift")
    )
    assert evaluation is not None


@pytest.mark.parametrize(
    ("window", "sentence"),
    [
        ({"sql": "select no_such_column from drift_models"}, "no_such_column"),
        ({"sql": "select 1 as amount where false"}, "has 0 rows"),
        ({"path": "current.docx"}, "can't be read"),
        ({"asset": "nowhere"}, "nowhere"),
        ({"inference_log": True, "last": 500}, "has no rows in this window"),
    ],
)
def test_a_window_whose_source_fails_is_a_failed_check_and_other_models_go_on(
    database: Any, tmp_path: Path, window: dict[str, Any], sentence: str
) -> None:
    frame(seed=2).to_parquet(tmp_path / "good.parquet")
    save_baseline("broken", "1", profile(frame(seed=1)))
    save_baseline("well", "1", profile(frame(seed=1)))

    def checked(model_id: str, source: dict[str, Any]) -> DriftCheckResult:
        def no_asset(key: dg.AssetKey) -> Any:
            raise FileNotFoundError(key)

        config = ModelDriftConfig(model_id, "1", source={"window": source})
        return check_model(config, no_asset, check_id=None, due_at=None, run_id="by-hand")

    failed = checked("broken", window)
    assert failed.status == "failed" and failed.alert_level is None
    assert failed.error_message is not None and sentence in failed.error_message
    assert "\n" not in failed.error_message
    assert checked("well", {"path": str(tmp_path / "good.parquet")}).alert_level == "NORMAL"


def test_a_second_run_of_one_due_check_is_refused(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    code = definitions(tmp_path)
    frame(seed=2).to_parquet(tmp_path / "current.parquet")
    tick(instance, code)
    make_due()
    (request,) = tick(instance, code)
    assert run(instance, code, request).success
    assert not run(instance, code, request).success


def test_a_check_whose_run_died_is_failed_with_the_reason(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    code = definitions(tmp_path)
    tick(instance, code)
    make_due()
    (request,) = tick(instance, code)
    instance.create_run_for_job(
        code.get_job_def("drift_check_job"),
        status=dg.DagsterRunStatus.FAILURE,
        tags=dict(request.tags),
    )
    with transaction() as connection:
        connection.execute(
            "UPDATE drift_checks SET requested_at = %s", (datetime.now(UTC) - timedelta(hours=1),)
        )
    tick(instance, code)
    check = check_of(request.tags[CHECK_TAG])
    assert (check.status, check.error_message) == ("failed", "its run ended without a result")


def test_changing_the_yaml_changes_the_registry(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    tick(instance, definitions(tmp_path))
    tick(instance, definitions(tmp_path, schedule="0 9 * * MON-FRI", model_version="2"))
    config = registered("churn").config
    assert (config.schedule_cron, config.model_version) == ("0 9 * * MON-FRI", "2")


def test_labels_strata_and_safety_events_are_declared_and_told(
    instance: dg.DagsterInstance, tmp_path: Path, received: list[dict[str, Any]]
) -> None:
    scored(20_000, seed=1).to_parquet(tmp_path / "scored.parquet")
    window = scored(4000, seed=2)
    window["churned"] = 1 - window["churned"]
    window.loc[window["group"] == "b", "score"] *= 0.6
    window.to_parquet(tmp_path / "current.parquet")
    (tmp_path / "events.csv").write_text("event_type,severity\nleak,medium\nleak,medium\n")
    code = definitions(
        tmp_path,
        reference={"path": str(tmp_path / "scored.parquet")},
        columns={"score": "score", "label": "churned", "strata": ["group"]},
        safety={"path": str(tmp_path / "events.csv")},
    )
    tick(instance, code)
    make_due()
    (request,) = tick(instance, code)
    assert run(instance, code, request).success
    check = check_of(request.tags[CHECK_TAG])
    counted = {name: check.metrics[f"{name}_count"] for name in ("performance", "bias")}
    assert counted == {"performance": 2, "bias": 4}
    assert (check.alert_level, check.metrics["safety_event_count"]) == ("CRITICAL", 2)
    alert_delivery_sensor(dg.build_sensor_context(instance=instance))
    (alert,) = received
    told = {
        (each["drift_type"], each["name"])
        for each in alert["body"]["metadata"]["event_payload"]["raised"]
    }
    assert ("performance", "roc_auc") in told
    assert ("bias", "demographic_parity_gap/group/b") in told
    assert ("safety", "leak/medium") in told
    shown = instance.get_latest_materialization_event(asset_key("churn"))
    assert shown is not None and shown.asset_materialization is not None
    assert shown.asset_materialization.metadata["performance/roc_auc"].value < 0.5


def test_a_monitor_that_is_removed_is_watched_no_more_and_leaves_a_record(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    tick(instance, definitions(tmp_path))
    register(ModelDriftConfig("by_hand", "1"), datetime.now(UTC))
    make_due()
    (request,) = tick(instance, definitions(tmp_path))
    without = dg.Definitions(jobs=[drift_check_job], sensors=[drift_due_sensor])
    assert tick(instance, without) == []
    assert [model.config.model_id for model in list_models()] == ["by_hand"]
    check = check_of(request.tags[CHECK_TAG])
    assert (check.status, check.reason) == ("skipped", "its monitor is not declared any more")
    with transaction() as connection:
        recorded = connection.execute(
            "SELECT resource_id FROM audit_outbox WHERE action = 'DRIFT_MONITOR_REMOVED'"
        ).fetchall()
    assert recorded == [("churn",)]
    assert tick(instance, definitions(tmp_path)) == []
    assert registered("churn").config.model_id == "churn"


def test_windows_come_from_an_asset_too(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset(io_manager_key="tables")
    def live() -> Any:
        return frame(seed=3)

    from secmon_dagster.orchestration.tables import TableIOManager

    code = dg.Definitions.merge(
        definitions(tmp_path, window={"asset": "live", "last": 1500}),
        dg.Definitions(assets=[live], resources={"tables": TableIOManager()}),
    )
    dg.materialize([live], instance=instance, resources={"tables": TableIOManager()})
    tick(instance, code)
    result = check_model(
        registered("churn").config,
        lambda key: code.get_repository_def().load_asset_value(key, instance=instance),
        check_id=None,
        due_at=None,
        run_id="by-hand",
    )
    assert (result.alert_level, result.metrics["rows"]) == ("NORMAL", 1500)


def test_the_yaml_itself_loads() -> None:
    declared = """
type: secmon_dagster.DriftMonitor
attributes:
  model_id: churn
  model_version: "7"
  window: {inference_log: true, hours: 24}
  schedule: "0 9 * * MON-FRI"
  timezone: Europe/Berlin
  thresholds: {psi_critical: 0.3}
"""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "churn"
        folder.mkdir(parents=True)
        (folder / "defs.yaml").write_text(declared)
        with sandbox.build_all_defs() as code:
            graph = code.get_repository_def().asset_graph
            config = json.loads(str(graph.get(asset_key("churn")).metadata[DECLARATION]))
            assert config["schedule_cron"] == "0 9 * * MON-FRI"
            assert len(graph.asset_check_keys) == 2


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"window": {"inference_log": True, "hours": -1}}, "window.hours"),
        ({"window": {"path": "x.csv", "speed": 1}}, "window.speed"),
        ({"colour": "red"}, "colour"),
        ({"columns": {"score": "s", "truth": "t"}}, "columns.truth"),
    ],
)
def test_a_wrong_attribute_is_named(wrong: dict[str, Any], field: str) -> None:
    good = {"model_id": "churn", "window": {"path": "x.csv"}}
    with pytest.raises(ValidationError, match=field):
        Monitor.model_validate({**good, **wrong})
