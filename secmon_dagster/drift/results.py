"""What a check found: metrics, the report that holds them, and the record of its execution."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from secmon_dagster.drift.compare import FeatureDrift
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.vocabulary import AlertLevel, DriftType, ExecutionStatus, SafetySeverity


@dataclass(frozen=True)
class DriftMetric:
    """One judged number. ``value`` is what ``level`` was decided on; ``details`` says the rest."""

    drift_type: DriftType
    name: str
    value: float | None
    level: AlertLevel | None
    sufficient: bool = True
    reason: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, feature: FeatureDrift, drift_type: DriftType) -> DriftMetric:
        """A feature's or an output's PSI as a metric."""
        return cls(
            drift_type,
            feature.feature,
            feature.psi,
            feature.level,
            feature.sufficient,
            feature.reason,
            feature.to_dict(),
        )


@dataclass(frozen=True)
class BiasMetric:
    """A fairness gap of one stratum: now, and in the baseline.

    ``low`` and ``high`` bound the current gap's change at 95 % where group counts are known.
    """

    metric_name: str
    stratum_type: str
    stratum_value: str
    baseline_value: float | None
    current_value: float | None
    level: AlertLevel | None
    low: float | None = None
    high: float | None = None
    rows: int | None = None
    reason: str | None = None

    @property
    def change(self) -> float | None:
        """By how much the gap grew; negative where it shrank."""
        if self.baseline_value is None or self.current_value is None:
            return None
        return abs(self.current_value) - abs(self.baseline_value)

    def as_metric(self) -> DriftMetric:
        """As a judged number."""
        return DriftMetric(
            DriftType.BIAS,
            f"{self.metric_name}/{self.stratum_type}/{self.stratum_value}",
            self.change,
            self.level,
            self.level is not None,
            self.reason,
            asdict(self),
        )


@dataclass(frozen=True)
class SafetyEvent:
    """Something that happened in production and must not; ``description`` holds no user data."""

    event_type: str
    severity: SafetySeverity
    description: str = ""
    count: int = 1

    def as_metric(self) -> DriftMetric:
        """As a judged number: how often it happened."""
        return DriftMetric(
            DriftType.SAFETY,
            f"{self.event_type}/{self.severity}",
            float(self.count),
            self.severity.alert_level,
            details={"severity": str(self.severity), "description": self.description},
        )


@dataclass(frozen=True)
class DriftReport:
    """All that one check found about one model.

    ``level`` is the worst of all metrics; None where the window allows no statement, and then
    ``reason`` says why.
    """

    level: AlertLevel | None
    reason: str | None
    rows: int
    baseline_rows: int
    baseline_hash: str
    features: tuple[FeatureDrift, ...] = ()
    outputs: tuple[FeatureDrift, ...] = ()
    performance: tuple[DriftMetric, ...] = ()
    bias: tuple[BiasMetric, ...] = ()
    safety: tuple[SafetyEvent, ...] = ()
    extra_columns: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def overall_status(self) -> str:
        """The level as a word; ``INSUFFICIENT_DATA`` where there is none."""
        return "INSUFFICIENT_DATA" if self.level is None else str(self.level)

    @property
    def metrics(self) -> list[DriftMetric]:
        """Every judged number of the check."""
        return [
            *(DriftMetric.of(each, DriftType.INPUT) for each in self.features),
            *(DriftMetric.of(each, DriftType.OUTPUT) for each in self.outputs),
            *(metric for each in self.features if (metric := missing_metric(each))),
            *self.performance,
            *(each.as_metric() for each in self.bias),
            *(each.as_metric() for each in self.safety),
        ]

    def ranked(self) -> list[FeatureDrift]:
        """Features and outputs, worst first; those without a verdict last."""
        return sorted(
            [*self.features, *self.outputs],
            key=lambda each: (
                -1 if each.level is None else each.level.rank,
                each.psi if each.psi is not None else -1.0,
            ),
            reverse=True,
        )

    def summary(self) -> dict[str, Any]:
        """The counts a result, an alert and an audit entry carry; no feature values."""
        psis = [each.psi for each in self.features if each.psi is not None]
        levels = [metric.level for metric in self.metrics]
        return {
            "overall_status": self.overall_status,
            "rows": self.rows,
            "input_drift_count": len(self.features),
            "output_drift_count": len(self.outputs),
            "performance_count": len(self.performance),
            "bias_count": len(self.bias),
            "safety_event_count": sum(each.count for each in self.safety),
            "critical_count": levels.count(AlertLevel.CRITICAL),
            "warning_count": levels.count(AlertLevel.WARNING),
            "insufficient_count": levels.count(None),
            "max_psi": max(psis, default=None),
        }

    def alert(self) -> dict[str, Any]:
        """What is told when a level is raised: the summary and the ten worst metrics."""
        raised = [
            metric
            for metric in self.metrics
            if metric.level is not None and metric.level is not AlertLevel.NORMAL
        ]
        raised.sort(key=lambda each: (each.level.rank if each.level else 0, each.value or 0.0))
        return {
            **self.summary(),
            "baseline_hash": self.baseline_hash,
            "raised": [
                {
                    "drift_type": str(each.drift_type),
                    "name": each.name,
                    "value": each.value,
                    "level": str(each.level),
                }
                for each in raised[::-1][:10]
            ],
        }


def missing_metric(feature: FeatureDrift) -> DriftMetric | None:
    """The changed share of missing values as a metric of its own; None without rows."""
    if feature.missing_current is None or feature.missing_reference is None:
        return None
    return DriftMetric(
        DriftType.MISSING,
        feature.feature,
        feature.missing_current - feature.missing_reference,
        feature.missing_level,
        details={"p": feature.missing_p},
    )


@dataclass(frozen=True)
class DriftCheckResult:
    """The record of one execution, as history shows it."""

    check_id: str
    model_id: str
    model_version: str
    timestamp: str
    status: ExecutionStatus
    duration_ms: float
    alert_generated: bool
    alert_level: str | None
    metrics: dict[str, Any]
    error_message: str | None = None
    reason: str | None = None
    due_at: str | None = None
    run_id: str | None = None
    event: str | None = None
    report: DriftReport | None = field(default=None, compare=False, repr=False)
    pages: tuple[str, str] | None = field(default=None, compare=False, repr=False)

    @property
    def raises_alert(self) -> bool:
        """Whether this check raised or escalated its model's level, rather than confirmed it."""
        return self.event in ("raised", "escalated")

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without the report."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "report"}
        return {**body, "status": str(self.status)}
