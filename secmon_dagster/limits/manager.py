"""``SecurityManager``: watch processes that somebody else started, and remember violations.

For programs that aren't run by the executor. It watches and tells; it can't limit, since the
processes aren't in boxes. What is over a limit of high severity is reported as such, and ending it
is for ``on_violation`` to decide.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from secmon_dagster.errors import InvalidLimitsError
from secmon_dagster.limits.backends import Reading, Sampled
from secmon_dagster.limits.backends.base import Box
from secmon_dagster.limits.declaration import DEFAULT_LIMITS, ResourceLimits
from secmon_dagster.limits.evidence import MB
from secmon_dagster.limits.violation import Severity, Violation, ViolationType

MONITOR_EVERY = 5.0
_log = logging.getLogger(__name__)
_REMEMBERED = 10_000


class AuditSink(Protocol):
    """Where log events go; the audit chain has this method."""

    def append_entry(
        self,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: Any = None,
        details: Any = None,
        *,
        level: str = "info",
        event_type: str | None = None,
        execution_id: str | None = None,
        job_id: str | None = None,
    ) -> str: ...


OnViolation = Callable[[Violation], None]


@dataclass
class _Monitored:
    """One execution under watch; times of the monotonic clock."""

    limits: ResourceLimits
    box: Box
    on_violation: OnViolation | None
    started: float
    last: tuple[float, Reading] | None = None
    told: set[ViolationType] = field(default_factory=set)


class SecurityManager:
    """Monitors executions every five seconds in one thread, however many there are.

    Args:
        audit: where :meth:`log_audit_event` and violations are written; ``None`` means nowhere.
        actor: who acts, as it is written there.
        interval: seconds between looks.
    """

    def __init__(
        self,
        audit: AuditSink | None = None,
        *,
        actor: str = "security-manager",
        interval: float = MONITOR_EVERY,
    ) -> None:
        self._audit = audit
        self._actor = actor
        self._interval = interval
        self._monitored: dict[str, _Monitored] = {}
        self._violations: deque[Violation] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._backend = Sampled()

    @staticmethod
    def validate_resource_limits(limits: ResourceLimits | dict[str, Any]) -> tuple[bool, list[str]]:
        """Whether limits are in range, and a sentence for each that isn't."""
        if isinstance(limits, ResourceLimits):
            return True, []
        errors = []
        for key, value in limits.items():
            try:
                ResourceLimits.from_json({key: value})
            except InvalidLimitsError as wrong:
                errors.append(wrong.message)
        return not errors, errors

    def start_resource_monitoring(
        self,
        execution_id: str,
        limits: ResourceLimits | dict[str, Any] | None = None,
        on_violation: OnViolation | None = None,
        *,
        pid: int | None = None,
    ) -> None:
        """Watch the process ``pid`` (this one by default) and what descends from it.

        Raises:
            InvalidLimitsError: ``limits`` in the JSON form that aren't in range.
        """
        if not isinstance(limits, ResourceLimits):
            limits = ResourceLimits.from_json(limits or {})
        complete = limits.merge(DEFAULT_LIMITS)
        # Watched, not enforced: the box must not decide by itself that memory has run out.
        box = self._backend.create(execution_id, replace(complete, enforce_memory_limit=False))
        box.adopt(os.getpid() if pid is None else pid)
        with self._wake:
            self._monitored[execution_id] = _Monitored(
                complete, box, on_violation, time.monotonic()
            )
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="secmon-security-manager", daemon=True
                )
                self._thread.start()
            self._wake.notify_all()

    def stop_resource_monitoring(self, execution_id: str) -> None:
        """Watch it no longer; an unknown id is none that is watched."""
        with self._wake:
            self._monitored.pop(execution_id, None)
            self._wake.notify_all()

    def check(self, execution_id: str) -> list[Violation]:
        """Look at one execution now; the new violations, each kind once an execution."""
        with self._lock:
            monitored = self._monitored.get(execution_id)
        if monitored is None:
            return []
        found = [
            replace(violation, execution_id=execution_id)
            for violation in _violations(monitored, time.monotonic())
        ]
        for violation in found:
            self._violations.append(violation)
            try:
                self._write(violation)
            finally:
                if monitored.on_violation is not None:
                    monitored.on_violation(violation)
        return found

    def get_execution_violations(self, execution_id: str) -> list[Violation]:
        # A copy first: the watching thread may add to them meanwhile.
        return [each for each in self.get_violations() if each.execution_id == execution_id]

    def get_violations(self) -> list[Violation]:
        return list(self._violations)

    def clear_violations(self) -> None:
        self._violations.clear()

    def log_audit_event(
        self,
        event_type: str,
        level: str = "info",
        *,
        execution_id: str | None = None,
        job_id: str | None = None,
        details: Any = None,
    ) -> str | None:
        """Write a lifecycle event; its entry's id, or ``None`` without an audit sink."""
        if self._audit is None:
            return None
        return self._audit.append_entry(
            event_type.upper().replace(".", "_"),
            self._actor,
            "execution",
            execution_id,
            details=details,
            level=level,
            event_type=event_type,
            execution_id=execution_id,
            job_id=job_id,
        )

    def _write(self, violation: Violation) -> None:
        if self._audit is not None:
            self._audit.append_entry(
                "LIMIT_VIOLATION",
                self._actor,
                "execution",
                violation.execution_id,
                data=violation.to_dict(),
                level="critical" if violation.severity.ends_execution else "warn",
                event_type="resource.violation",
                execution_id=violation.execution_id,
            )

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._monitored:
                    self._thread = None
                    return
                self._wake.wait(self._interval)
                watched = list(self._monitored)
            for execution_id in watched:
                try:
                    self.check(execution_id)
                except Exception:
                    # The audit chain is away, or a callback failed: the others are watched on.
                    _log.exception("execution %s: a violation was not dealt with", execution_id)


def _violations(monitored: _Monitored, now: float) -> list[Violation]:
    """New violations of one execution at this moment."""
    limits, reading = monitored.limits, monitored.box.read()
    last, monitored.last = monitored.last, (now, reading)
    elapsed = now - monitored.started
    used = None
    if last is not None and now > last[0] and reading.cpu_seconds is not None:
        used = 100 * (reading.cpu_seconds - (last[1].cpu_seconds or 0)) / (now - last[0])
    candidates = [
        (
            ViolationType.MEMORY_LIMIT_EXCEEDED,
            Severity.HIGH if limits.enforce_memory_limit else Severity.MEDIUM,
            float(reading.memory_bytes or 0),
            (limits.max_memory_mb or 0) * MB,
            "bytes",
        ),
        (
            ViolationType.TIME_LIMIT_EXCEEDED,
            Severity.HIGH if limits.enforce_time_limit else Severity.MEDIUM,
            elapsed,
            (limits.max_execution_time_ms or 0) / 1000,
            "seconds",
        ),
        (
            ViolationType.CPU_LIMIT_EXCEEDED,
            Severity.MEDIUM,
            used or 0.0,
            limits.max_cpu_percent or 0,
            "percent of one core",
        ),
    ]
    found = []
    for kind, severity, observed, limit, unit in candidates:
        if observed > limit and kind not in monitored.told:
            monitored.told.add(kind)
            message = f"{observed:g} {unit}, over its {limit:g}"
            found.append(
                Violation(kind, severity, message, limit=limit, observed=observed, unit=unit)
            )
    return found
