"""The drift check of the real code location, as a boxed run on PostgreSQL storage."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from secmon_dagster.definitions import defs
from secmon_dagster.drift import ModelDriftConfig, profile, run_check, save_baseline
from secmon_dagster.drift.history import execution_history
from secmon_dagster.drift.registry import register
from secmon_dagster.orchestration.components.drift_monitor import latest_level
from secmon_dagster.orchestration.drift_runs import (
    asset_key,
    events_of,
    retrain_on_critical_drift,
)
from secmon_dagster.orchestration.instance import prepare
from tests.drift_data import frame


def drift_check_job() -> Any:
    return defs().get_repository_def().get_job("drift_check_job")


@pytest.fixture
def instance(database: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("DAGSTER_HOME", "SECMON_DAGSTER_STORAGE_URL", "SECMON_DAGSTER_STATE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("SECMON_COMPUTE_LOGS", "")
    prepare()
    with dg.DagsterInstance.get() as found:
        yield found


def test_a_boxed_run_checks_the_window_and_shows_it_on_the_models_asset(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    save_baseline("churn", "1", profile(frame(seed=1)))
    frame(seed=2, shift=2.0).to_parquet(tmp_path / "current.parquet")
    source = {"window": {"path": str(tmp_path / "current.parquet")}}
    register(ModelDriftConfig("churn", "1", source=source), datetime.now(UTC))
    instance.add_dynamic_partitions("drift_models", ["churn"])
    result = dg.execute_job(
        dg.reconstructable(drift_check_job),
        instance=instance,
        tags={"dagster/partition": "churn"},
    )
    assert result.success
    assert [check.alert_level for check in execution_history("churn")] == ["CRITICAL"]
    assert execution_history("churn")[0].run_id == result.run_id
    shown = instance.get_latest_materialization_event(asset_key("churn"))
    assert shown is not None and shown.asset_materialization is not None
    assert shown.asset_materialization.metadata["psi/amount"].value > 0.25
    evaluation = instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(asset_key("churn"), "drift")
    )
    assert evaluation is not None and evaluation.event is not None
    found = evaluation.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_every_sensor_of_drift_runs_without_being_switched_on() -> None:
    repository = defs().get_repository_def()
    for name in ("drift_due_sensor", "drift_alert_sensor", "alert_delivery_sensor"):
        assert repository.get_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_critical_drift_requests_a_retraining_once(instance: dg.DagsterInstance) -> None:
    @dg.asset(automation_condition=retrain_on_critical_drift("churn"))
    def training_rows() -> None: ...

    code = dg.Definitions(
        assets=[training_rows, dg.AssetSpec(asset_key("churn"))],
        asset_checks=[latest_level("churn")],
    )

    def requested(cursor: Any) -> tuple[int, Any]:
        result = dg.evaluate_automation_conditions(code, instance=instance, cursor=cursor)
        return result.get_num_requested(dg.AssetKey("training_rows")), result.cursor

    def report(shift: float) -> str | None:
        result = run_check("churn", "1", frame(seed=2, shift=shift))
        for event in events_of(result):
            instance.report_runless_asset_event(event)
        return result.alert_level

    save_baseline("churn", "1", profile(frame(seed=1)))
    counts, cursor = [], requested(None)[1]
    for shift in (0.0, 0.45, 2.0, 2.0, 0.0, 2.0):
        level = report(shift)
        count, cursor = requested(cursor)
        counts.append((level, count))
    assert counts == [
        ("NORMAL", 0),
        ("WARNING", 0),
        ("CRITICAL", 1),
        ("CRITICAL", 0),
        ("NORMAL", 0),
        ("CRITICAL", 1),
    ]
