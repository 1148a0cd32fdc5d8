"""What the run's process writes to the audit chain about a run and its steps.

Written here and never by a step: an op must not be able to forge what is said about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from secmon_dagster.errors import AuditError, SecmonError
from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.violation import Severity, Violation, ViolationType
from secmon_dagster.orchestration.executor.config import AuditMode

_EVENT_TYPES = {
    ViolationType.MEMORY_LIMIT_EXCEEDED: "job.memory_limit",
    ViolationType.TIME_LIMIT_EXCEEDED: "job.timeout",
    ViolationType.CPU_LIMIT_EXCEEDED: "resource.violation",
    ViolationType.UNAUTHORIZED_ACCESS: "security.violation",
    ViolationType.INVALID_CONFIGURATION: "security.violation",
}

Entry = dict[str, Any]


class AuditSink(Protocol):
    """Where entries go; the audit chain has this method."""

    def append_entries(self, entries: Iterable[Mapping[str, Any]]) -> list[str]:
        """Append entries in order; durable on return."""
        ...


class Trail:
    """Entries of one run.

    Entries that nobody waits for are written with the next one that matters: the end of a step with
    the start of the next. ``required`` means that nothing goes on which isn't in the chain.

    Args:
        open_sink: gives the chain, or raises a ``SecmonError``; not called in mode ``off``.
        warn: told once what could not be written, in mode ``best_effort``.
    """

    def __init__(
        self,
        open_sink: Callable[[], AuditSink],
        mode: AuditMode,
        *,
        run_id: str,
        job_name: str,
        actor: str,
        warn: Callable[[str], None],
    ) -> None:
        self._open_sink = open_sink
        self._mode = mode
        self._run_id = run_id
        self._job_name = job_name
        self._actor = actor
        self._warn = warn
        self._waiting: list[Entry] = []
        self._silent = mode == "off"

    def run_starts(self, enforcement: str, steps: int) -> None:
        """The run starts; written with its first step."""
        details = {"enforcement": enforcement, "steps": steps}
        self._add("RUN_START", "execution.start", "info", details=details)

    def run_is_over(self, failed: Iterable[str], *, cancelled: bool) -> None:
        """The run is over.

        Raises:
            AuditError: the chain can't be written and must be.
        """
        names = sorted(failed)
        if cancelled:
            self._add("RUN_CANCEL", "execution.cancelled", "warn", details={"failed": names})
        elif names:
            self._add("RUN_FAIL", "execution.failed", "error", details={"failed": names})
        else:
            self._add("RUN_COMPLETE", "execution.complete", "info")
        self.flush()

    def step_starts(self, step_key: str, limits: ResourceLimits, attempt: int) -> None:
        """A step is about to start.

        Raises:
            AuditError: the chain can't be written and must be, so the step must not run.
        """
        details = {"limits": limits.to_json(), "attempt": attempt}
        self._add("STEP_START", "job.start", "info", step_key=step_key, details=details)
        self.flush()

    def step_is_over(self, step_key: str, outcome: str, usage: Mapping[str, Any]) -> None:
        """A step is over; written with what comes next."""
        good = outcome == "success"
        self._add(
            "STEP_COMPLETE" if good else "STEP_FAIL",
            "job.complete" if good else "job.failed",
            "info" if good else "error",
            step_key=step_key,
            details={"outcome": outcome, "usage": dict(usage)},
        )

    def violation(self, step_key: str, violation: Violation) -> None:
        """A limit was passed; written at once.

        Raises:
            AuditError: the chain can't be written and must be.
        """
        details: dict[str, Any] = {"enforcement": violation.enforcement}
        if violation.type is ViolationType.TIME_LIMIT_EXCEEDED and violation.limit is not None:
            details["timeoutMs"] = round(violation.limit * 1000)
        self._add(
            "LIMIT_VIOLATION",
            _EVENT_TYPES[violation.type],
            _level(violation.severity),
            step_key=step_key,
            data=violation.to_dict(),
            details=details,
        )
        self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            AuditError: the chain can't be written and must be.
        """
        if self._silent or not self._waiting:
            return
        entries, self._waiting = self._waiting, []
        try:
            self._open_sink().append_entries(entries)
        except SecmonError as refused:
            if self._mode == "required":
                raise AuditError(
                    f"the audit chain can't be written: {refused.message}",
                    hint="Start the database, or set the executor's audit to best_effort or off.",
                ) from refused
            self._silent = True
            self._warn(f"The audit chain can't be written, this run goes on without: {refused}")

    def _add(
        self,
        action: str,
        event_type: str,
        level: str,
        *,
        step_key: str | None = None,
        data: Any = None,
        details: Any = None,
    ) -> None:
        if self._silent:
            return
        self._waiting.append(
            {
                "action": action,
                "actor": self._actor,
                "resource_type": "run" if step_key is None else "step",
                "resource_id": self._run_id if step_key is None else f"{self._run_id}/{step_key}",
                "data": data,
                "details": {"job": self._job_name, **(details or {})},
                "level": level,
                "event_type": event_type,
                "execution_id": self._run_id,
                "job_id": step_key,
            }
        )


def _level(severity: Severity) -> str:
    if severity.ends_execution:
        return "critical"
    return "warn" if severity is Severity.MEDIUM else "info"
