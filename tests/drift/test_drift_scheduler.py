"""The scheduler as its documentation shows it, and what it does with wrong input."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.drift import (
    DriftScheduler,
    ExecutionStatus,
    ScheduleInterval,
    configure_drift_scheduler,
    create_drift_detector,
    get_drift_scheduler,
)
from secmon_dagster.drift.scheduler import call_with_timeout
from secmon_dagster.errors import InvalidInputError, NotFoundError
from tests.drift_data import RecordedAudit, frame

NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)


@pytest.fixture
def scheduler(database: Any, audit: RecordedAudit) -> DriftScheduler:
    return DriftScheduler(now=lambda: NOON, audit=audit)


def test_example_configure_run_and_read(database: Any) -> None:
    alerts: list[tuple[str, dict[str, Any]]] = []
    scheduler = DriftScheduler(
        drift_detector_factory=create_drift_detector, use_apscheduler=True, now=lambda: NOON
    )
    scheduler.configure_model(
        model_id="model_prod_v2",
        model_version="2.1.0",
        schedule_interval=ScheduleInterval.DAILY,
        baseline_data={
            "feature_age": [20, 25, 30, 35, 40],
            "feature_income": [50000, 60000, 70000, 80000],
        },
        thresholds={"psi_warning": 0.1, "psi_critical": 0.25},
        features_to_monitor=["feature_age", "feature_income"],
        alert_callback=lambda model_id, details: alerts.append((model_id, details)),
    )
    scheduler.start()
    result = scheduler.run_scheduled(
        model_id="model_prod_v2",
        input_data={
            "feature_age": [21, 26, 31, 36, 41],
            "feature_income": [51000, 61000, 71000, 81000],
        },
        output_data=[0.45, 0.52, 0.48],
        bias_data=[
            {
                "metric_name": "demographic_parity_gap",
                "stratum_type": "RACE",
                "stratum_value": "Black",
                "baseline_value": 0.02,
                "current_value": 0.08,
            }
        ],
    )
    assert result.status is ExecutionStatus.COMPLETED
    assert result.alert_generated is True
    assert result.alert_level == "WARNING"  # the gap grew by 0.06; five rows say nothing else
    assert result.duration_ms > 0
    assert result.metrics["input_drift_count"] == 2
    assert alerts[0][0] == "model_prod_v2"
    assert alerts[0][1]["overall_status"] == "WARNING"
    schedule = scheduler.get_schedule()["schedules"]
    assert [entry["model_id"] for entry in schedule] == ["model_prod_v2"]
    assert schedule[0]["schedule_interval"] == "daily"
    assert schedule[0]["next_run_time"] == "2026-01-31T00:00:00+00:00"
    history = scheduler.get_execution_history(
        model_id="model_prod_v2", status=ExecutionStatus.COMPLETED, limit=50
    )
    assert [check.check_id for check in history] == [result.check_id]
    assert history[0].metrics == result.metrics
    stats = scheduler.get_statistics()
    assert {key: stats[key] for key in ("total_models_configured", "total_models_enabled")} == {
        "total_models_configured": 1,
        "total_models_enabled": 1,
    }
    assert (stats["total_executions"], stats["successful_executions"]) == (1, 1)
    assert (stats["failed_executions"], stats["alerts_generated"]) == (0, 1)
    assert stats["success_rate"] == 100.0
    scheduler.stop()


def test_example_scheduled_drift_detection(database: Any) -> None:
    told: list[str] = []
    scheduler = DriftScheduler()
    scheduler.configure_model(
        model_id="fraud_detector",
        model_version="2.0.0",
        schedule_interval=ScheduleInterval.DAILY,
        baseline_data={
            "transaction_amount": [100, 200, 500, 1000, 5000],
            "days_since_acct_open": [30, 90, 180, 365, 1000],
        },
        thresholds={"psi_critical": 0.25},
        alert_callback=lambda model_id, _: told.append(model_id),
    )
    scheduler.start()

    def monitor_drift_system() -> None:
        stats = scheduler.get_statistics()
        if stats["failed_executions"] > 0:
            told.append("log_alert")
        if stats["alerts_generated"] > 5:
            told.append("escalate_to_oncall")

    monitor_drift_system()
    assert told == []
    scheduler.run_scheduled("fraud_detector", {"transaction_amount": [100, 200]})
    monitor_drift_system()
    assert told == ["log_alert"]


def test_the_statistics_are_those_the_example_prints(scheduler: DriftScheduler) -> None:
    reference = {"x": list(range(100))}
    for name, enabled in (("a", True), ("b", True), ("c", False)):
        scheduler.configure_model(name, "1", baseline_data=reference, enabled=enabled)
    calm, shifted, wrong = reference, {"x": [200] * 100}, {"y": [1]}
    for window in [*[calm] * 41, *[shifted] * 3, wrong]:
        scheduler.run_scheduled("a", window)
    printed = {
        "total_models_configured": 3,
        "total_models_enabled": 2,
        "total_executions": 45,
        "successful_executions": 44,
        "failed_executions": 1,
        "alerts_generated": 3,
        "success_rate": 97.8,
    }
    assert printed.items() <= scheduler.get_statistics().items()


def test_example_integrated_audit_and_monitoring(database: Any) -> None:
    audit = HashChainAuditLogger()
    scheduler = DriftScheduler()

    notified: list[str] = []
    tickets: list[str] = []

    def handle_drift_alert(model_id: str, alert_details: dict[str, Any]) -> None:
        audit.append_entry(
            action="CRITICAL_DRIFT_DETECTED",
            actor="automated_monitoring",
            resource_type="model",
            resource_id=model_id,
            data=alert_details,
        )
        notified.append(model_id)
        tickets.append(f"Critical drift in {model_id}")

    scheduler.configure_model(
        model_id="recommendation_engine",
        model_version="4.2.1",
        schedule_interval=ScheduleInterval.DAILY,
        baseline_data=frame(seed=1),
        alert_callback=handle_drift_alert,
    )
    scheduler.start()
    scheduler.run_scheduled("recommendation_engine", frame(seed=2, shift=2.0))
    trail = audit.get_resource_trail("model", "recommendation_engine")
    assert "CRITICAL_DRIFT_DETECTED" in [entry.action for entry in trail]
    assert notified == ["recommendation_engine"]
    assert tickets == ["Critical drift in recommendation_engine"]
    assert audit.verify_chain()["valid"]


def test_success_rate_counts_failures_and_history_filters_them(scheduler: DriftScheduler) -> None:
    scheduler.configure_model("churn", "1", baseline_data=frame(seed=1))
    scheduler.run_scheduled("churn", frame(seed=2))
    scheduler.run_scheduled("churn", frame(seed=2).drop(columns=["age"]))
    failed = scheduler.get_execution_history(status="failed")
    assert [check.error_message for check in failed] == [
        "window is 'without column age'; allowed: every feature of the baseline"
    ]
    assert scheduler.get_statistics()["success_rate"] == 50.0


def test_a_disabled_model_is_skipped_with_a_record(scheduler: DriftScheduler) -> None:
    scheduler.configure_model("churn", "1", baseline_data=frame(), enabled=False)
    result = scheduler.run_scheduled("churn", frame())
    assert (result.status, result.reason) == (ExecutionStatus.SKIPPED, "the model is disabled")
    assert scheduler.get_execution_history(status="skipped")[0].check_id == result.check_id
    assert scheduler.get_statistics()["total_executions"] == 0


def test_a_detector_that_raises_fails_its_own_check_only(scheduler: DriftScheduler) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("value 4711 leaked")

    scheduler.configure_model("churn", "1", baseline_data=frame(seed=1))
    other = DriftScheduler(broken, now=lambda: NOON, audit=RecordedAudit())
    result = other.run_scheduled("churn", frame())
    assert result.status is ExecutionStatus.FAILED
    assert result.error_message == "the check raised RuntimeError"
    assert scheduler.run_scheduled("churn", frame(seed=2)).status is ExecutionStatus.COMPLETED


def test_a_callback_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    assert not call_with_timeout(lambda *_: release.wait() and None, "churn", {}, 0.05)
    release.set()
    assert not call_with_timeout(lambda *_: 1 / 0 and None, "churn", {}, 5)
    assert call_with_timeout(lambda *_: None, "churn", {}, 5)


def test_a_level_that_stays_calls_back_once(scheduler: DriftScheduler) -> None:
    calls: list[str] = []
    scheduler.configure_model(
        "churn", "1", baseline_data=frame(seed=1), alert_callback=lambda *_: calls.append("")
    )
    for seed in (2, 3):
        scheduler.run_scheduled("churn", frame(seed=seed, shift=2.0))
    assert len(calls) == 1


def test_configuring_again_without_changing_the_schedule_keeps_the_next_time(
    database: Any, audit: RecordedAudit
) -> None:
    clock = [NOON]
    scheduler = DriftScheduler(now=lambda: clock[0], audit=audit)
    scheduler.configure_model("churn", "1", "hourly", baseline_data=frame())
    clock[0] = NOON.replace(hour=15)
    scheduler.configure_model("churn", "2", "hourly")
    assert scheduler.get_schedule()["schedules"][0]["next_run_time"] == "2026-01-30T13:00:00+00:00"
    scheduler.configure_model("churn", "2", "daily")
    assert scheduler.get_schedule()["schedules"][0]["next_run_time"] == "2026-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model_id": ""}, "model_id is ''"),
        ({"schedule_interval": "yearly"}, "schedule_interval is 'yearly'; allowed: hourly, daily"),
        ({"schedule_interval": "custom"}, "schedule_cron is None"),
        ({"schedule_interval": "custom", "schedule_cron": "61 * * * *"}, "61"),
        ({"schedule_interval": "daily", "schedule_cron": "0 9 * * 1"}, "none, unless"),
        ({"timezone": "Mars/Olympus"}, "timezone is 'Mars/Olympus'"),
        ({"thresholds": {"psi": 1}}, "thresholds is 'psi'"),
        ({"features_to_monitor": ["height"]}, "features_to_monitor is 'height'"),
        ({"baseline_data": [1, 2]}, "a mapping of columns"),
        ({"catch_up": "never"}, "allowed: all, latest, skip"),
        ({"alert_callback": "print"}, "alert_callback is 'print'"),
    ],
)
def test_a_model_that_cannot_be_configured_names_the_field(
    scheduler: DriftScheduler, given: dict[str, Any], sentence: str
) -> None:
    arguments = {"model_id": "churn", "model_version": "1", "baseline_data": frame(50), **given}
    with pytest.raises(InvalidInputError, match=sentence):
        scheduler.configure_model(**arguments)
    assert scheduler.get_schedule() == {"schedules": []}


def test_an_unknown_model_is_named(scheduler: DriftScheduler) -> None:
    with pytest.raises(NotFoundError, match="no model ghost is configured"):
        scheduler.run_scheduled("ghost", frame())


def test_several_models_are_configured_at_once(database: Any) -> None:
    configure_drift_scheduler(
        [{"model_id": name, "model_version": "1"} for name in ("churn", "fraud")]
    )
    listed = get_drift_scheduler().get_schedule()["schedules"]
    assert [each["model_id"] for each in listed] == ["churn", "fraud"]
