"""The alert sensor, evaluated as the daemon would."""

from __future__ import annotations

from typing import Any

import dagster as dg

from secmon_dagster.defs.drift.alerts import drift_alert_sensor
from secmon_dagster.drift import profile, run_check, save_baseline
from tests.drift_data import RecordedAudit, frame


def evaluate(cursor: str | None) -> tuple[list[str], str | None]:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        found = drift_alert_sensor(context)
    if isinstance(found, dg.SkipReason):
        return [], cursor
    assert isinstance(found, dg.SensorResult)
    return [str(request.run_key) for request in found.run_requests or []], found.cursor


def test_each_critical_check_starts_one_alert_run(database: Any) -> None:
    audit = RecordedAudit()
    save_baseline("churn", "1", profile(frame(seed=1)))
    run_check("churn", "1", frame(seed=2), check_id="calm", audit=audit)
    assert evaluate(None) == ([], None)
    run_check("churn", "1", frame(seed=3, shift=2.0), check_id="first", audit=audit)
    keys, cursor = evaluate(None)
    assert keys == ["drift-alert:first"]
    assert evaluate(cursor) == ([], cursor)
    run_check("churn", "1", frame(seed=4, shift=2.0), check_id="second", audit=audit)
    assert evaluate(cursor)[0] == ["drift-alert:second"]


def test_the_sensor_runs_without_being_switched_on() -> None:
    assert drift_alert_sensor.default_status is dg.DefaultSensorStatus.RUNNING
