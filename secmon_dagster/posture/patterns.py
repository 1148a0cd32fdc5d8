"""Workflow patterns: what repeated executions show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.session import Connection
from secmon_dagster.posture.store import Row, fetch, fetch_one

EMERGES_AFTER = 3
_LONGEST_MS = 1e12
# An execution is optimized when it takes at most this share of the usual time.
_OPTIMIZED = 0.9


class PatternType(StrEnum):
    """What a pattern says about its executions."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    OPTIMIZED = "optimized"
    SECURITY_COMPLIANT = "security_compliant"


@dataclass(frozen=True, slots=True)
class WorkflowPattern:
    """Running figures over all executions counted for one workflow and type.

    Attributes:
        success_rate: percent, two decimals.
        avg_duration_ms: mean, three decimals.
        security_score: mean of those executions that had one; None if none had.
        emerged_at: when the third execution was counted; None before.
    """

    pattern_id: str
    workflow_id: str
    pattern_type: PatternType
    execution_count: int
    success_rate: float
    avg_duration_ms: float
    security_score: float | None
    first_seen_at: datetime
    last_seen_at: datetime
    emerged_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExecutionData:
    """One execution, as it is counted.

    Raises:
        InvalidInputError: a negative duration, a score outside 0 to 100, or a wrong type.
    """

    duration_ms: float
    success: bool
    security_score: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.success, bool):
            raise InvalidInputError.of("success", self.success, "true or false")
        _number("duration_ms", self.duration_ms, _LONGEST_MS)
        if self.security_score is not None:
            _number("security_score", self.security_score, 100)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> ExecutionData:
        """From JSON.

        Raises:
            InvalidInputError: a field is missing, unknown or out of range.
        """
        allowed = ("duration_ms", "success", "security_score")
        for name in raw:
            if name not in allowed:
                raise InvalidInputError(
                    f"{name} is no field of execution_data; allowed: {', '.join(allowed)}",
                    field=name,
                )
        return cls(
            duration_ms=raw.get("duration_ms"),  # type: ignore[arg-type]  # checked on creation
            success=raw.get("success"),  # type: ignore[arg-type]
            security_score=raw.get("security_score"),
        )


def track(
    connection: Connection, workflow_id: str, pattern_type: PatternType, execution: ExecutionData
) -> WorkflowPattern:
    """Count one execution. One statement adds to sums, so concurrent callers lose nothing."""
    scored = execution.security_score is not None
    row = fetch_one(
        connection,
        "INSERT INTO workflow_patterns AS p (workflow_id, pattern_type, execution_count, "
        "success_count, duration_total_ms, score_total, score_count) "
        "VALUES (%s, %s, 1, %s, %s, %s, %s) ON CONFLICT (workflow_id, pattern_type) DO UPDATE SET "
        "execution_count = p.execution_count + 1, "
        "success_count = p.success_count + EXCLUDED.success_count, "
        "duration_total_ms = p.duration_total_ms + EXCLUDED.duration_total_ms, "
        "score_total = p.score_total + EXCLUDED.score_total, "
        "score_count = p.score_count + EXCLUDED.score_count, "
        "last_seen_at = clock_timestamp(), "
        "emerged_at = CASE WHEN p.emerged_at IS NULL AND p.execution_count + 1 >= %s "
        "THEN clock_timestamp() ELSE p.emerged_at END RETURNING *",
        workflow_id,
        pattern_type,
        int(execution.success),
        execution.duration_ms,
        execution.security_score or 0,
        int(scored),
        EMERGES_AFTER,
    )
    assert row is not None
    return _pattern_of(row)


def track_run(
    connection: Connection, workflow_id: str, run_id: str, execution: ExecutionData, clean: bool
) -> list[WorkflowPattern]:
    """Count a run under every type it belongs to, once however often it is reported.

    Every run counts for ``successful``, so that its success rate speaks of all of them.

    Args:
        clean: whether no violation was noted during the run.
    """
    new = fetch_one(
        connection,
        "INSERT INTO tracked_runs (run_id) VALUES (%s) ON CONFLICT DO NOTHING RETURNING run_id",
        run_id,
    )
    if new is None:
        return []
    types = [PatternType.SUCCESSFUL]
    if not execution.success:
        types.append(PatternType.FAILED)
    else:
        usual = fetch_one(
            connection,
            "SELECT avg_duration_ms FROM workflow_patterns WHERE workflow_id = %s "
            "AND pattern_type = %s AND execution_count >= %s",
            workflow_id,
            PatternType.SUCCESSFUL,
            EMERGES_AFTER,
        )
        if usual and execution.duration_ms <= _OPTIMIZED * float(usual["avg_duration_ms"]):
            types.append(PatternType.OPTIMIZED)
        trusted = execution.security_score is None or execution.security_score >= 90
        if clean and trusted:
            types.append(PatternType.SECURITY_COMPLIANT)
    return [track(connection, workflow_id, kind, execution) for kind in types]


def discovered_workflow(connection: Connection, owner_id: str, job_name: str) -> str:
    """The workflow of a job nobody declared, made the first time its owner runs it."""
    row = fetch_one(
        connection,
        "INSERT INTO agent_workflows (owner_id, name, workflow_type, job_name, discovered) "
        "VALUES (%s, %s, 'sequential', %s, TRUE) ON CONFLICT (owner_id, job_name) WHERE discovered "
        "DO UPDATE SET name = EXCLUDED.name RETURNING workflow_id",
        owner_id,
        job_name[:200],
        job_name,
    )
    assert row is not None
    return str(row["workflow_id"])


def successful(
    connection: Connection, min_success_rate: float, limit: int
) -> list[WorkflowPattern]:
    """Emerged patterns of type ``successful`` with at least that success rate, best first."""
    rows = fetch(
        connection,
        "SELECT * FROM workflow_patterns WHERE pattern_type = %s AND success_rate >= %s "
        "AND emerged_at IS NOT NULL ORDER BY success_rate DESC, execution_count DESC, pattern_id "
        "LIMIT %s",
        PatternType.SUCCESSFUL,
        min_success_rate,
        limit,
    )
    return [_pattern_of(row) for row in rows]


def require_rate(value: object) -> float:
    """``value`` as a percentage.

    Raises:
        InvalidInputError: it is no number from 0 to 100.
    """
    _number("min_success_rate", value, 100)
    return float(value)  # type: ignore[arg-type]


def parse_pattern_type(value: object) -> PatternType:
    """The type called ``value``.

    Raises:
        InvalidInputError: there is none of that name.
    """
    if isinstance(value, str) and value in set(PatternType):
        return PatternType(value)
    raise InvalidInputError.of("pattern_type", value, ", ".join(PatternType))


def _pattern_of(row: Row) -> WorkflowPattern:
    score = row["security_score"]
    return WorkflowPattern(
        pattern_id=row["pattern_id"],
        workflow_id=row["workflow_id"],
        pattern_type=PatternType(row["pattern_type"]),
        execution_count=row["execution_count"],
        success_rate=float(row["success_rate"]),
        avg_duration_ms=float(row["avg_duration_ms"]),
        security_score=None if score is None else float(score),
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        emerged_at=row["emerged_at"],
    )


def _number(field: str, value: object, highest: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 <= value <= highest:  # type: ignore[operator]  # NaN compares false
        raise InvalidInputError.of(field, value, f"a number from 0 to {highest:g}")
