"""One check from begin to end: load the baseline, judge the window, record what came out.

Whatever goes wrong in between ends as a FAILED check with one sentence; it never ends another
model's check, and never as a silent NORMAL.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from secmon_dagster.audit import enqueue
from secmon_dagster.database import transaction
from secmon_dagster.drift.baselines import load_baseline
from secmon_dagster.drift.detector import DriftDetector
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.report import html_page, markdown
from secmon_dagster.drift.results import (
    BiasMetric,
    DriftCheckResult,
    DriftMetric,
    DriftReport,
    SafetyEvent,
)
from secmon_dagster.drift.store import AuditOutbox, begin_check, record_check
from secmon_dagster.drift.vocabulary import AlertLevel, ExecutionStatus
from secmon_dagster.errors import ConflictError, SecmonError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """What one check looks at: features, and beside them whatever else is known."""

    input_data: Any = None
    output_data: Any = None
    performance: Sequence[DriftMetric] = ()
    bias_data: Sequence[BiasMetric | Mapping[str, Any]] = ()
    safety_events: Sequence[SafetyEvent] = field(default_factory=tuple)


def run_check(
    model_id: str,
    version: str,
    window: Window | Any,
    *,
    thresholds: Mapping[str, float] | Thresholds | None = None,
    features: Sequence[str] | None = None,
    check_id: str | None = None,
    due_at: datetime | None = None,
    run_id: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    audit: AuditOutbox = enqueue,
) -> DriftCheckResult:
    """Check a window against the stored baseline of a model version, and record it.

    Args:
        window: A :class:`Window`, or just the feature columns (DataFrame or mapping), or a callable
            that fetches either; a query that fails then fails this check and nothing else.
        check_id: Of a check that was asked for; None makes a new one.

    Raises:
        ConflictError: if the check was already taken by another run.
        DatabaseError: if it can't be recorded.
    """
    return execute_check(
        model_id,
        version,
        lambda: DriftDetector(load_baseline(model_id, version), thresholds, features),
        window,
        check_id=check_id,
        due_at=due_at,
        run_id=run_id,
        now=now,
        audit=audit,
    )


def execute_check(
    model_id: str,
    version: str,
    detector: Callable[[], DriftDetector],
    window: Window | Any,
    *,
    check_id: str | None = None,
    due_at: datetime | None = None,
    run_id: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    audit: AuditOutbox = enqueue,
) -> DriftCheckResult:
    """:func:`run_check` with a detector of the caller's making; see there."""
    check_id = check_id or uuid.uuid4().hex
    started, clock = now(), time.perf_counter()
    with transaction() as connection:
        if not begin_check(
            connection, check_id, model_id, version, now=started, due_at=due_at, run_id=run_id
        ):
            raise ConflictError(f"drift check {check_id} of {model_id} was already taken")
    report, error = _judge(model_id, detector, window)
    level = report.level if report else None
    result = DriftCheckResult(
        check_id=check_id,
        model_id=model_id,
        model_version=version,
        timestamp=started.isoformat(),
        status=ExecutionStatus.FAILED if report is None else ExecutionStatus.COMPLETED,
        duration_ms=(time.perf_counter() - clock) * 1000,
        alert_generated=level is not None and level is not AlertLevel.NORMAL,
        alert_level=None if level is None else str(level),
        metrics={} if report is None else report.summary(),
        error_message=error,
        reason=report.reason if report else None,
        due_at=None if due_at is None else due_at.isoformat(),
        run_id=run_id,
        report=report,
    )
    result = replace(result, pages=_pages(result))
    with transaction() as connection:
        event = record_check(
            connection,
            result,
            finished_at=now(),
            audit=audit,
            report=report,
            page=result.pages,
        )
    result = replace(result, event=None if event is None else str(event))
    _log.info(
        "Drift check %s %s for %s in %.1fms - Status: %s",
        check_id,
        result.status,
        model_id,
        result.duration_ms,
        report.overall_status if report else error,
    )
    return result


def skip_check(
    model_id: str,
    version: str,
    reason: str,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    audit: AuditOutbox = enqueue,
) -> DriftCheckResult:
    """Record that a check was asked for and not made."""
    moment = now()
    result = DriftCheckResult(
        check_id=uuid.uuid4().hex,
        model_id=model_id,
        model_version=version,
        timestamp=moment.isoformat(),
        status=ExecutionStatus.SKIPPED,
        duration_ms=0.0,
        alert_generated=False,
        alert_level=None,
        metrics={},
        reason=reason,
    )
    with transaction() as connection:
        begin_check(connection, result.check_id, model_id, version, now=moment)
        record_check(connection, result, finished_at=moment, audit=audit)
    return result


def _pages(result: DriftCheckResult) -> tuple[str, str] | None:
    """The report as HTML and as markdown."""
    if result.report is None:
        return None
    return (
        html_page(
            result.report,
            model_id=result.model_id,
            version=result.model_version,
            check_id=result.check_id,
            moment=result.timestamp,
            thresholds=result.report.thresholds,
        ),
        markdown(result.report, model_id=result.model_id, version=result.model_version),
    )


def _judge(
    model_id: str, detector: Callable[[], DriftDetector], window: Window | Any
) -> tuple[DriftReport | None, str | None]:
    try:
        fetched = window() if callable(window) else window
        if not isinstance(fetched, Window):
            fetched = Window(input_data=fetched)
        report = detector().check(
            fetched.input_data,
            output_data=fetched.output_data,
            performance=fetched.performance,
            bias_data=fetched.bias_data,
            safety_events=fetched.safety_events,
        )
    except SecmonError as refused:
        return None, refused.message
    except Exception as broken:
        # Its text may hold feature values, so only its kind is recorded; the log has no more.
        _log.warning("the drift check of %s raised %s", model_id, type(broken).__name__)
        return None, f"the check raised {type(broken).__name__}"
    return report, None
