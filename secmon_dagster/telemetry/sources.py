"""Where counters come from: append-only tables, read on from where the last reading ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Increment(NamedTuple):
    """One step of a counter, or one observation of a histogram.

    Attributes:
        exemplar: a run id that led to it.
    """

    name: str
    labels: dict[str, str]
    value: float = 1.0
    exemplar: str | None = None


@dataclass(frozen=True)
class Source:
    """A table whose rows are counted once each.

    Attributes:
        name: of the cursor.
        tables: that must exist; without one of them the source is silent.
        query: gives ``(id, …)`` with ``%(after)s`` and ``%(ids)s`` (``by_time`` false), or
            ``(key, moment, …)`` with ``%(since)s`` (``by_time`` true); ``%(limit)s`` rows.
        read: what one row adds.
        by_time: rows are found by the time they ended, not by a growing id.
    """

    name: str
    tables: tuple[str, ...]
    query: str
    read: Callable[[Any], Iterable[Increment]]
    by_time: bool = False


def _event(row: Any) -> Iterable[Increment]:
    _, kind, what, verdict, count, similarity, duration, run_id = row
    if kind in ("analysis", "analysis_error"):
        yield Increment("vecsec_inference_total", {}, count)
        if duration is not None:
            yield Increment("vecsec_inference_duration_seconds", {}, duration, run_id)
    if kind == "analysis":
        yield Increment("vecsec_inference_success_total", {}, count)
        if similarity is not None:
            yield Increment("vecsec_semantic_similarity_score", {}, similarity)
        if verdict in ("flag", "block"):
            yield Increment("vecsec_threats_detected_total", {"type": what}, count, run_id)
        if verdict == "block":
            yield Increment("vecsec_attacks_blocked_total", {"type": what}, count, run_id)
    elif kind == "analysis_error":
        yield Increment("vecsec_inference_errors_total", {}, count)
    elif kind == "rlsa_violation":
        yield Increment("vecsec_rlsa_violations_total", {"category": what}, count)
    elif kind == "pattern_learned":
        yield Increment("vecsec_patterns_learned_total", {}, count)
    elif kind == "embedding":
        yield Increment("vecsec_embedding_generation_total", {}, count)
    elif kind == "model_update":
        yield Increment("vecsec_model_updates_total", {"type": what}, count)


def _call(row: Any) -> Iterable[Increment]:
    _, status, duration = row
    yield Increment("vecsec_baseten_api_calls_total", {"status": status})
    yield Increment("vecsec_baseten_api_duration_seconds", {}, duration)
    if status == "failed":
        yield Increment("vecsec_baseten_api_calls_failed_total", {})


def _step(row: Any) -> Iterable[Increment]:
    _, _, run_id, job, op, outcome, violation, wall, cpu, throttled, memory = row
    where = {"job": job, "op": op}
    yield Increment("secmon_steps_total", {**where, "outcome": outcome}, 1, run_id)
    yield Increment("secmon_step_wall_seconds", where, wall, run_id)
    if cpu is not None:
        yield Increment("secmon_step_cpu_seconds_total", where, cpu)
    if throttled is not None:
        yield Increment("secmon_step_throttled_seconds_total", where, throttled)
    if memory is not None:
        yield Increment("secmon_step_peak_memory_bytes", where, memory, run_id)
    if violation is not None:
        yield Increment("secmon_violations_total", {"type": violation}, 1, run_id)


def _check(row: Any) -> Iterable[Increment]:
    _, script, action, milliseconds, run_id = row
    yield Increment("secmon_gate_checks_total", {"script": script, "action": action}, 1, run_id)
    yield Increment("secmon_gate_check_seconds", {"script": script}, milliseconds / 1000, run_id)
    if action in ("blocked", "error"):
        yield Increment("secmon_gate_blocked_total", {}, 1, run_id)


def _by_id(columns: str, table: str, key: str = "id") -> str:
    """Rows after a position, and rows of given ids, each by the primary key."""
    return (
        f"(SELECT {columns} FROM {table} WHERE {key} > %(after)s ORDER BY {key} LIMIT %(limit)s)"  # noqa: S608
        f" UNION ALL (SELECT {columns} FROM {table} WHERE {key} = ANY(%(ids)s))"
    )


SOURCES: tuple[Source, ...] = (
    Source(
        "vecsec_events",
        ("secmon.vecsec_events",),
        _by_id("id, kind, type, verdict, count, similarity, duration, run_id", "vecsec_events"),
        _event,
    ),
    Source(
        "inference_calls",
        ("secmon.inference_calls",),
        _by_id("id, status, duration", "inference_calls"),
        _call,
    ),
    Source(
        "step_usage",
        ("secmon.step_usage",),
        """SELECT run_id || '/' || step_key || '/' || attempt, ended_at, run_id, job_name, op_name,
                  outcome, violation, wall_seconds, cpu_seconds, throttled_seconds,
                  peak_memory_bytes
             FROM step_usage WHERE ended_at >= %(since)s ORDER BY ended_at LIMIT %(limit)s""",
        _step,
        by_time=True,
    ),
    Source(
        "monitoring_history",
        ("secmon.monitoring_history",),
        _by_id(
            "id, script_name, action_taken, execution_duration_ms, run_id", "monitoring_history"
        ),
        _check,
    ),
    Source(
        "audit_entries",
        ("secmon.audit_entries",),
        _by_id("seq, level", "audit_entries", "seq"),
        lambda row: [Increment("secmon_audit_entries_total", {"level": row[1]})],
    ),
    Source(
        "drift_checks",
        ("secmon.drift_checks",),
        """SELECT check_id, finished_at, model_id, status, run_id FROM drift_checks
            WHERE finished_at >= %(since)s AND status IN ('completed', 'failed', 'skipped')
            ORDER BY finished_at LIMIT %(limit)s""",
        lambda row: [
            Increment("secmon_drift_checks_total", {"model": row[2], "status": row[3]}, 1, row[4])
        ],
        by_time=True,
    ),
    Source(
        "security_checks",
        ("secmon.security_checks",),
        """SELECT check_id, checked_at, check_type, status FROM security_checks
            WHERE checked_at >= %(since)s ORDER BY checked_at LIMIT %(limit)s""",
        lambda row: [
            Increment("secmon_instance_checks_total", {"check_type": row[2], "status": row[3]})
        ],
        by_time=True,
    ),
    Source(
        "dagster_runs",
        ("public.runs",),
        "SELECT run_id, ended_at, job, state FROM dagster_ended_runs(%(since)s, %(limit)s)",
        lambda row: [
            Increment("secmon_dagster_runs_total", {"job": row[2], "state": row[3]}, 1, row[0])
        ],
        by_time=True,
    ),
    Source(
        "dagster_ticks",
        ("public.job_ticks",),
        # A tick that still runs is passed over; it is a gap until it ends.
        """SELECT id, kind, name, status
             FROM dagster_ticks(%(after)s, %(limit)s) WHERE status <> 'STARTED'
           UNION ALL
           SELECT t.id, t.kind, t.name, t.status
             FROM unnest(%(ids)s::bigint[]) g, dagster_ticks(g - 1, 1) t
            WHERE t.id = g AND t.status <> 'STARTED'""",
        lambda row: [
            Increment(
                "secmon_dagster_ticks_total", {"kind": row[1], "name": row[2], "status": row[3]}
            )
        ],
    ),
)


@dataclass(frozen=True)
class Gauge:
    """A query that gives ``(metric, labels as JSON, value)``.

    Attributes:
        tables: that must exist; without one of them the gauge is silent.
    """

    tables: tuple[str, ...]
    query: str


# Constants of this file only.
_LEVEL = "array_position(ARRAY['NORMAL', 'WARNING', 'CRITICAL'], {}) - 1"

GAUGES: tuple[Gauge, ...] = (
    Gauge(
        ("secmon.inference_budget",),
        """SELECT 'vecsec_baseten_credits_remaining', '{}'::jsonb, credits - reserved
             FROM inference_budget""",
    ),
    Gauge(
        ("secmon.approvals",),
        """SELECT 'secmon_gate_approvals_pending', '{}'::jsonb, count(*)::float8
             FROM approvals WHERE state = 'pending' AND expires_at > now()""",
    ),
    Gauge(
        ("secmon.audit_head",),
        """SELECT 'secmon_audit_chain_length', '{}'::jsonb, seq::float8 FROM audit_head
           UNION ALL
           SELECT 'secmon_audit_head_age_seconds', '{}',
                  greatest(0, extract(epoch FROM clock_timestamp() - "timestamp"))::float8
             FROM audit_head WHERE seq > 0""",
    ),
    Gauge(
        ("secmon.audit_checkpoints", "secmon.audit_head", "secmon.audit_entries"),
        # The last checkpoint, not the largest: after a restore that may be one of lost entries.
        """WITH audit_covered (size) AS (
             SELECT coalesce((SELECT size FROM audit_checkpoints
                               ORDER BY created_at DESC, size DESC LIMIT 1), 0))
           SELECT 'secmon_audit_checkpoint_age_seconds', '{}'::jsonb,
                  greatest(0, extract(epoch FROM clock_timestamp() - max(created_at)))::float8
             FROM audit_checkpoints HAVING count(*) > 0
           UNION ALL
           SELECT 'secmon_audit_uncovered_entries', '{}',
                  greatest(0, h.seq - c.size)::float8 FROM audit_head h, audit_covered c
           UNION ALL
           SELECT 'secmon_audit_uncovered_seconds', '{}',
                  coalesce(greatest(0, extract(epoch FROM clock_timestamp() - e."timestamp")), 0)
             FROM audit_covered c LEFT JOIN audit_entries e ON e.seq = c.size + 1""",
    ),
    Gauge(
        ("secmon.audit_verifications",),
        """(SELECT 'secmon_audit_last_verification_age_seconds', '{}'::jsonb,
                   greatest(0, extract(epoch FROM clock_timestamp() - verified_at))::float8
              FROM audit_verifications ORDER BY id DESC LIMIT 1)
           UNION ALL
           (SELECT 'secmon_audit_chain_valid', '{}', (verdict = 'valid')::int::float8
              FROM audit_verifications ORDER BY id DESC LIMIT 1)""",
    ),
    Gauge(
        ("secmon.audit_outbox",),
        """SELECT 'secmon_audit_outbox_waiting', '{}'::jsonb, count(*)::float8
             FROM (SELECT FROM audit_outbox LIMIT 100000) w""",
    ),
    Gauge(
        ("secmon.drift_model_state",),
        f"""SELECT 'secmon_drift_model_level', jsonb_build_object('model', model_id),
                   ({_LEVEL.format("level")})::float8
              FROM drift_model_state ORDER BY model_id LIMIT 200""",  # noqa: S608
    ),
    Gauge(
        ("secmon.drift_model_state", "secmon.drift_metrics"),
        f"""WITH last AS (
              SELECT s.model_id, m.* FROM drift_model_state s
                JOIN drift_metrics m USING (check_id) ORDER BY s.model_id, m.name LIMIT 2000)
            SELECT 'secmon_drift_statistic',
                   jsonb_build_object('model', model_id, 'feature', name, 'type', drift_type), value
              FROM last WHERE value IS NOT NULL
            UNION ALL
            SELECT 'secmon_drift_level',
                   jsonb_build_object('model', model_id, 'feature', name, 'type', drift_type),
                   ({_LEVEL.format("level")})::float8
              FROM last WHERE level IS NOT NULL""",  # noqa: S608
    ),
    Gauge(
        ("secmon.security_profiles",),
        """SELECT 'secmon_instances_by_band', jsonb_build_object('band', status), count(*)::float8
             FROM security_profiles GROUP BY status""",
    ),
    Gauge(
        ("secmon.alert_outbox",),
        """SELECT 'secmon_alerts_waiting', '{}'::jsonb, count(*)::float8
             FROM alert_outbox WHERE delivered_at IS NULL AND given_up_at IS NULL""",
    ),
    Gauge(("public.runs",), "SELECT name, labels, value FROM dagster_metrics()"),
)
