"""Every metric there is: name, kind, labels, help. Nothing else may be exported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product


class Kind(StrEnum):
    """Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


ATTACKS = (
    "prompt_injection", "indirect_injection", "jailbreak", "exfiltration",
    "system_prompt_extraction", "obfuscation",
)  # fmt: skip
VIOLATIONS = (
    "memory_limit_exceeded", "cpu_limit_exceeded", "time_limit_exceeded", "unauthorized_access",
    "invalid_configuration",
)  # fmt: skip
RLSA = ("tenant", "clearance", "role", "resource", "columns", "action", "unknown_principal")
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
SIMILARITY = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WALL = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
MEMORY = tuple(float(2**power) for power in range(24, 36))


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in PromQL; a counter's ends in ``_total``.
        labels: label names.
        buckets: upper bounds of a histogram, without infinity.
        known: label values that are there from the start, so that a first event is a rise from
            zero and not a new series, which ``rate`` would miss.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()

    def initial(self) -> list[dict[str, str]]:
        """Label sets to start from."""
        if not self.labels:
            return [{}]
        if not self.known:
            return []
        return [dict(zip(self.labels, values, strict=True)) for values in product(*self.known)]


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

_ALL = (
    # The inference service.
    Metric("vecsec_baseten_api_calls_total", _C, "API calls", ("status",),
           known=(("success", "failed"),)),
    Metric("vecsec_baseten_api_calls_failed_total", _C, "Failed API calls"),
    Metric("vecsec_baseten_api_duration_seconds", _H, "Duration of an API call", buckets=LATENCY),
    Metric("vecsec_baseten_credits_remaining", _G, "Credits left, reserved ones taken off"),
    # The detector.
    Metric("vecsec_inference_total", _C, "Prompts analysed"),
    Metric("vecsec_inference_duration_seconds", _H, "Time to analyse a prompt", buckets=LATENCY),
    Metric("vecsec_inference_success_total", _C, "Analyses that gave a verdict"),
    Metric("vecsec_inference_errors_total", _C, "Analyses that failed"),
    Metric("vecsec_attacks_blocked_total", _C, "Prompts blocked", ("type",), known=(ATTACKS,)),
    Metric("vecsec_threats_detected_total", _C, "Prompts flagged or blocked", ("type",),
           known=(ATTACKS,)),
    Metric("vecsec_semantic_similarity_score", _H, "Cosine to the nearest known attack",
           buckets=SIMILARITY),
    Metric("vecsec_rlsa_violations_total", _C, "Retrievals refused by policy", ("category",),
           known=(RLSA,)),
    Metric("vecsec_patterns_learned_total", _C, "Threat patterns learned"),
    Metric("vecsec_embedding_generation_total", _C, "Embeddings generated"),
    Metric("vecsec_model_updates_total", _C, "Model update events", ("type",),
           known=(("candidate", "rejected", "activated", "rolled_back"),)),
    # Limits.
    Metric("secmon_steps_total", _C, "Step attempts ended", ("job", "op", "outcome")),
    Metric("secmon_step_wall_seconds", _H, "Wall time of a step", ("job", "op"), buckets=WALL),
    Metric("secmon_step_peak_memory_bytes", _H, "Peak memory of a step", ("job", "op"),
           buckets=MEMORY),
    Metric("secmon_step_cpu_seconds_total", _C, "CPU time of steps", ("job", "op")),
    Metric("secmon_step_throttled_seconds_total", _C, "Time steps were throttled", ("job", "op")),
    Metric("secmon_violations_total", _C, "Steps ended by a limit", ("type",),
           known=(VIOLATIONS,)),
    # Gate.
    Metric("secmon_gate_checks_total", _C, "Security checks of artifacts", ("script", "action")),
    Metric("secmon_gate_blocked_total", _C, "Artifacts blocked or failed closed"),
    Metric("secmon_gate_check_seconds", _H, "Duration of a check", ("script",), buckets=LATENCY),
    Metric("secmon_gate_approvals_pending", _G, "Artifacts that wait for a second person"),
    # Audit.
    Metric("secmon_audit_entries_total", _C, "Audit entries counted", ("level",),
           known=(("info", "warn", "error", "critical"),)),
    Metric("secmon_audit_chain_length", _G, "Sequence number of the chain's head"),
    Metric("secmon_audit_head_age_seconds", _G, "Age of the chain's last entry"),
    Metric("secmon_audit_uncovered_entries", _G, "Entries after the last checkpoint"),
    Metric("secmon_audit_uncovered_seconds", _G, "Age of the oldest entry after the checkpoint"),
    Metric("secmon_audit_checkpoint_age_seconds", _G, "Age of the last checkpoint"),
    Metric("secmon_audit_last_verification_age_seconds", _G, "Age of the last verification"),
    Metric("secmon_audit_chain_valid", _G, "1 if the last verification found the chain whole"),
    Metric("secmon_audit_outbox_waiting", _G, "Entries committed and not yet in the chain"),
    # Drift.
    Metric("secmon_drift_checks_total", _C, "Drift checks ended", ("model", "status")),
    Metric("secmon_drift_statistic", _G, "Statistic of the last check",
           ("model", "feature", "type")),
    Metric("secmon_drift_level", _G, "0 normal, 1 warning, 2 critical: of the last check",
           ("model", "feature", "type")),
    Metric("secmon_drift_model_level", _G, "0 normal, 1 warning, 2 critical", ("model",)),
    # Posture and alerts.
    Metric("secmon_instances_by_band", _G, "Agent instances by band of their score", ("band",),
           known=(("secure", "monitoring", "warning", "compromised"),)),
    Metric("secmon_instance_checks_total", _C, "Checks of agent instances",
           ("check_type", "status")),
    Metric("secmon_alerts_waiting", _G, "Alerts not yet delivered"),
    # Dagster.
    Metric("secmon_dagster_runs_total", _C, "Runs that ended", ("job", "state")),
    Metric("secmon_dagster_runs_in_state", _G, "Runs that have not ended", ("job", "state")),
    Metric("secmon_dagster_queue_depth", _G, "Runs waiting in the queue"),
    Metric("secmon_dagster_oldest_queued_seconds", _G, "How long the first in the queue waits"),
    Metric("secmon_dagster_daemon_heartbeat_age_seconds", _G, "Age of a daemon's last sign",
           ("daemon",)),
    Metric("secmon_dagster_ticks_total", _C, "Ticks of schedules and sensors",
           ("kind", "name", "status")),
    # The exporter itself.
    Metric("secmon_db_up", _G, "1 if PostgreSQL answered the last time it was asked"),
    Metric("secmon_collect_seconds", _G, "How long the last collection took"),
    Metric("secmon_collect_age_seconds", _G, "Age of the numbers shown"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
