"""Grafana dashboards as code; ``deploy/monitoring/dashboards`` holds what this generates.

The four of the fourth document (usage, security, performance, training) and five of the platform.
Regenerate: ``python -m secmon_dagster.telemetry.dashboards deploy/monitoring/dashboards``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import piechart, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: PromQL and legend, by panel.
        unit: Grafana's name of the unit.
        kind: timeseries, stat or pie.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


def _rate(metric: str, by: str = "", legend: str = "") -> tuple[str, str]:
    inner = f"rate({metric}[$__rate_interval])"
    return (f"sum by ({by}) ({inner})" if by else f"sum({inner})", legend)


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))",
            f"{name}p{int(q * 100)}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def _mean(metric: str) -> str:
    top, bottom = _rate(f"{metric}_sum")[0], _rate(f"{metric}_count")[0]
    return f"{top} / {bottom}"


_API, _INFERENCE = "vecsec_baseten_api_calls", "vecsec_inference_duration_seconds"

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "usage": (
        "BaseTen usage",
        (
            Panel("API call rate", (_rate(f"{_API}_total", "status", "{{status}}"),), "reqps"),
            Panel("Credits remaining", (("vecsec_baseten_credits_remaining", "credits"),)),
            Panel(
                "Credit consumption an hour",
                (("-delta(vecsec_baseten_credits_remaining[1h])", "credits an hour"),),
            ),
            Panel(
                "Average response time",
                ((_mean("vecsec_baseten_api_duration_seconds"), "mean"),),
                "s",
            ),
            Panel(
                "Error rate",
                (
                    (
                        f"100 * {_rate(f'{_API}_failed_total')[0]} / {_rate(f'{_API}_total')[0]}",
                        "failed",
                    ),
                ),
                "percent",
            ),
        ),
    ),
    "security": (
        "Security metrics",
        (
            Panel(
                "Attacks blocked by type",
                (("sum by (type) (increase(vecsec_attacks_blocked_total[$__range]))", "{{type}}"),),
                kind="pie",
            ),
            Panel(
                "Threat detection rate",
                (_rate("vecsec_threats_detected_total", "type", "{{type}}"),),
                "cps",
            ),
            Panel("Semantic similarity scores", _quantiles("vecsec_semantic_similarity_score")),
            Panel(
                "RLSA violations by category",
                (_rate("vecsec_rlsa_violations_total", "category", "{{category}}"),),
                "cps",
            ),
            Panel(
                "Instances by band",
                (("secmon_instances_by_band", "{{band}}"),),
                kind="pie",
            ),
        ),
    ),
    "performance": (
        "Performance",
        (
            Panel("Inference latency", _quantiles(_INFERENCE), "s"),
            Panel("Throughput", (_rate("vecsec_inference_total", "", "requests"),), "reqps"),
            Panel("Errors", (_rate("vecsec_inference_errors_total", "", "errors"),), "cps"),
            Panel(
                "System health",
                (("secmon_db_up", "database"), ('up{job="secmon"}', "exporter")),
                kind="stat",
            ),
        ),
    ),
    "training": (
        "Training analytics",
        (
            Panel("Patterns learned", (("vecsec_patterns_learned_total", "patterns"),)),
            Panel(
                "Embedding generation rate",
                (_rate("vecsec_embedding_generation_total", "", "embeddings"),),
                "cps",
            ),
            Panel(
                "Model updates",
                (("sum by (type) (increase(vecsec_model_updates_total[1d]))", "{{type}}"),),
            ),
            Panel(
                "Similarity threshold distribution",
                (
                    (
                        "sum by (le) (increase(vecsec_semantic_similarity_score_bucket[$__range]))",
                        "≤ {{le}}",
                    ),
                ),
            ),
        ),
    ),
    "limits": (
        "Limits",
        (
            Panel("Violations", (_rate("secmon_violations_total", "type", "{{type}}"),), "cps"),
            Panel("Peak memory", _quantiles("secmon_step_peak_memory_bytes", "op"), "bytes"),
            Panel("Wall time", _quantiles("secmon_step_wall_seconds", "op"), "s"),
            Panel("CPU cores", (_rate("secmon_step_cpu_seconds_total", "op", "{{op}}"),)),
            Panel("Throttled", (_rate("secmon_step_throttled_seconds_total", "op", "{{op}}"),)),
            Panel("Steps", (_rate("secmon_steps_total", "outcome", "{{outcome}}"),), "cps"),
        ),
    ),
    "gate": (
        "Gate",
        (
            Panel("Verdicts", (_rate("secmon_gate_checks_total", "action", "{{action}}"),), "cps"),
            Panel("Blocked", (("increase(secmon_gate_blocked_total[1h])", "an hour"),)),
            Panel("Check duration", _quantiles("secmon_gate_check_seconds", "script"), "s"),
            Panel(
                "Approvals pending", (("secmon_gate_approvals_pending", "pending"),), kind="stat"
            ),
        ),
    ),
    "audit": (
        "Audit chain",
        (
            Panel("Chain length", (("secmon_audit_chain_length", "entries"),)),
            Panel("Entries", (_rate("secmon_audit_entries_total", "level", "{{level}}"),), "cps"),
            Panel(
                "Ages",
                (
                    ("secmon_audit_head_age_seconds", "last entry"),
                    ("secmon_audit_checkpoint_age_seconds", "checkpoint"),
                    ("secmon_audit_uncovered_seconds", "oldest entry not covered"),
                    ("secmon_audit_last_verification_age_seconds", "verification"),
                ),
                "s",
            ),
            Panel("Chain valid", (("secmon_audit_chain_valid", "valid"),), kind="stat"),
            Panel(
                "Waiting",
                (
                    ("secmon_audit_uncovered_entries", "not covered"),
                    ("secmon_audit_outbox_waiting", "in the outbox"),
                ),
            ),
        ),
    ),
    "drift": (
        "Drift",
        (
            Panel("Level by model", (("secmon_drift_model_level", "{{model}}"),)),
            Panel("Statistic", (("secmon_drift_statistic", "{{model}} {{feature}} {{type}}"),)),
            Panel("Level by feature", (("secmon_drift_level", "{{model}} {{feature}}"),)),
            Panel("Checks", (_rate("secmon_drift_checks_total", "status", "{{status}}"),), "cps"),
            Panel("Alerts waiting", (("secmon_alerts_waiting", "alerts"),), kind="stat"),
        ),
    ),
    "dagster": (
        "Dagster",
        (
            Panel("Runs", (_rate("secmon_dagster_runs_total", "state", "{{state}}"),), "cps"),
            Panel("In progress", (("secmon_dagster_runs_in_state", "{{job}} {{state}}"),)),
            Panel(
                "Queue",
                (
                    ("secmon_dagster_queue_depth", "depth"),
                    ("secmon_dagster_oldest_queued_seconds", "oldest, seconds"),
                ),
            ),
            Panel(
                "Daemon heartbeats",
                (("secmon_dagster_daemon_heartbeat_age_seconds", "{{daemon}}"),),
                "s",
            ),
            Panel("Ticks", (_rate("secmon_dagster_ticks_total", "status", "{{status}}"),), "cps"),
        ),
    ),
}

_BUILDERS: dict[str, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "pie": piechart.Panel,
}


def build(uid: str, title: str, panels: Sequence[Panel]) -> str:
    """One dashboard as JSON."""
    board = (
        builder.Dashboard(f"secmon: {title}")
        .uid(f"secmon-{uid}")
        .tags(["secmon"])
        .refresh("30s")
        .time("now-6h", "now")
    )
    for panel in panels:
        one = _BUILDERS[panel.kind]().title(panel.title).unit(panel.unit).datasource(_SOURCE)
        one = one.span(_WIDTH).height(_HEIGHT)
        for place, (expression, legend) in enumerate(panel.queries):
            one = one.with_target(
                prometheus.Dataquery()
                .expr(expression)
                .legend_format(legend)
                .ref_id(chr(ord("A") + place))
            )
        board = board.with_panel(one)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def write_all(folder: Path) -> None:
    """Write every dashboard to ``folder/<uid>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for uid, (title, panels) in DASHBOARDS.items():
        (folder / f"{uid}.json").write_text(build(uid, title, panels), "utf-8")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
