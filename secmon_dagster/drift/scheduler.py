"""``DriftScheduler``: the library face of the registry.

Schedules are Dagster's business: one sensor asks the registry what is due. This class configures
models, runs a check by hand with data in memory, and reads schedule, history and statistics.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from secmon_dagster.audit import enqueue
from secmon_dagster.drift import history
from secmon_dagster.drift.baselines import load_baseline, save_baseline
from secmon_dagster.drift.checks import Window, execute_check, skip_check
from secmon_dagster.drift.detector import DriftDetector, create_drift_detector
from secmon_dagster.drift.profile import profile
from secmon_dagster.drift.registry import (
    AlertCallback,
    ModelDriftConfig,
    list_models,
    register,
    registered,
)
from secmon_dagster.drift.results import DriftCheckResult, SafetyEvent
from secmon_dagster.drift.store import AuditOutbox
from secmon_dagster.drift.vocabulary import CatchUp, ExecutionStatus, ScheduleInterval
from secmon_dagster.errors import InvalidInputError, SecmonError

_log = logging.getLogger(__name__)

CALLBACK_SECONDS = 10.0

DetectorFactory = Callable[..., DriftDetector]


class DriftScheduler:
    """Configure models, run checks, read what happened.

    Args:
        drift_detector_factory: Called with ``(baseline, thresholds, features)``.
        use_apscheduler: Accepted for compatibility; Dagster schedules.
        now: The clock.
        audit: Where audit entries go.
    """

    def __init__(
        self,
        drift_detector_factory: DetectorFactory = create_drift_detector,
        use_apscheduler: bool | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        audit: AuditOutbox = enqueue,
    ) -> None:
        if use_apscheduler:
            _log.info("APScheduler is not used: Dagster's daemon starts the checks that are due")
        self._factory = drift_detector_factory
        self._now = now
        self._audit = audit
        self._callbacks: dict[str, AlertCallback] = {}

    def configure_model(
        self,
        model_id: str,
        model_version: str,
        schedule_interval: ScheduleInterval | str = ScheduleInterval.DAILY,
        baseline_data: Any = None,
        thresholds: Mapping[str, float] | None = None,
        features_to_monitor: Sequence[str] | None = None,
        alert_callback: AlertCallback | None = None,
        enabled: bool = True,
        schedule_cron: str | None = None,
        *,
        timezone: str | None = None,
        catch_up: CatchUp | str = CatchUp.LATEST,
        source: Mapping[str, Any] | None = None,
    ) -> ModelDriftConfig:
        """Watch a model, or change how it is watched.

        Raises:
            InvalidInputError: naming the field that can't be, its value and what is allowed.
        """
        config = ModelDriftConfig(
            model_id=model_id,
            model_version=model_version,
            schedule_interval=schedule_interval,  # type: ignore[arg-type]  # read by the class
            baseline_data=baseline_data,
            thresholds=thresholds,
            features_to_monitor=None if features_to_monitor is None else list(features_to_monitor),
            alert_callback=alert_callback,
            enabled=enabled,
            schedule_cron=schedule_cron,
            timezone=timezone,
            catch_up=catch_up,  # type: ignore[arg-type]  # read by the class
            source=source,
        )
        if baseline_data is not None:
            baseline = profile(baseline_data)
            baseline.select(config.features_to_monitor)
            save_baseline(model_id, model_version, baseline, replace=True)
        register(config, self._now())
        self._callbacks.pop(model_id, None)
        if alert_callback is not None:
            self._callbacks[model_id] = alert_callback
        return config

    def start(self) -> None:
        """Make sure the registry answers; from then on Dagster's daemon runs what is due.

        Raises:
            DatabaseError: if the registry can't be read.
        """
        configured = history.statistics()["total_models_enabled"]
        _log.info("Drift scheduler: %d models enabled; Dagster's daemon runs them", configured)

    def stop(self) -> None:
        """Forget the callbacks of this process; configured models stay configured."""
        self._callbacks.clear()

    def run_scheduled(
        self,
        model_id: str,
        input_data: Any = None,
        output_data: Any = None,
        bias_data: Sequence[Mapping[str, Any]] | None = None,
        safety_events: Sequence[SafetyEvent] | None = None,
    ) -> DriftCheckResult:
        """Check data in memory now. Bad data ends as a FAILED result, a disabled model as SKIPPED.

        Raises:
            NotFoundError: if the model is not configured.
        """
        config = registered(model_id).config
        if not config.enabled:
            return skip_check(config.model_id, config.model_version, "the model is disabled",
                              now=self._now, audit=self._audit)  # fmt: skip
        result = execute_check(
            config.model_id,
            config.model_version,
            lambda: self._factory(
                load_baseline(config.model_id, config.model_version),
                config.thresholds,
                config.features_to_monitor,
            ),
            Window(
                input_data=input_data,
                output_data=output_data,
                bias_data=tuple(bias_data or ()),
                safety_events=tuple(safety_events or ()),
            ),
            now=self._now,
            audit=self._audit,
        )
        callback = self._callbacks.get(model_id)
        if callback is not None and result.raises_alert and result.report is not None:
            details = {**result.to_dict(), **result.report.alert()}
            call_with_timeout(callback, model_id, details, CALLBACK_SECONDS)
        return result

    def get_schedule(self, *, limit: int = 1000, after: str = "") -> dict[str, Any]:
        """Watched models by id and when they are checked next."""
        return {
            "schedules": [
                {
                    "model_id": model.config.model_id,
                    "model_version": model.config.model_version,
                    "schedule_interval": str(model.config.schedule_interval),
                    "schedule_cron": model.config.schedule_cron,
                    "timezone": model.config.zone_name,
                    "enabled": model.config.enabled,
                    "next_run_time": model.next_due_local.isoformat(),
                }
                for model in list_models(limit=limit, after=after)
            ]
        }

    def get_execution_history(
        self,
        model_id: str | None = None,
        status: ExecutionStatus | str | None = None,
        limit: int = 50,
        *,
        before: datetime | None = None,
    ) -> list[DriftCheckResult]:
        """Checks, newest first.

        Raises:
            InvalidInputError: for an unknown status, or a limit that is not 1 to 1000.
        """
        try:
            wanted = None if status is None else ExecutionStatus(status)
        except ValueError:
            raise InvalidInputError.of("status", status, ", ".join(ExecutionStatus)) from None
        return history.execution_history(model_id, wanted, limit=limit, before=before)

    def get_statistics(self) -> dict[str, Any]:
        """Totals over all models."""
        return history.statistics()


def call_with_timeout(
    callback: AlertCallback, model_id: str, details: dict[str, Any], seconds: float
) -> bool:
    """Call an alert callback; one that hangs or raises is logged and changes nothing.

    Returns:
        Whether it came back in time and without an error.
    """
    outcome: list[str] = []

    def call() -> None:
        try:
            callback(model_id, details)
        except SecmonError as refused:
            outcome.append(refused.message)
        except Exception as broken:
            outcome.append(f"it raised {type(broken).__name__}")
        else:
            outcome.append("")

    thread = threading.Thread(target=call, name=f"alert-callback-{model_id}", daemon=True)
    thread.start()
    thread.join(seconds)
    problem = outcome[0] if outcome else f"it did not come back within {seconds:g} s"
    if problem:
        _log.error("the alert callback of %s failed: %s", model_id, problem)
    return not problem


@cache
def get_drift_scheduler() -> DriftScheduler:
    """The scheduler of this process."""
    return DriftScheduler()


def configure_drift_scheduler(models: Sequence[Mapping[str, Any]]) -> DriftScheduler:
    """Configure several models on the scheduler of this process.

    Args:
        models: Arguments of :meth:`DriftScheduler.configure_model`, one mapping a model.

    Raises:
        InvalidInputError: for the first that can't be configured.
    """
    scheduler = get_drift_scheduler()
    for model in models:
        scheduler.configure_model(**model)
    return scheduler
