"""Drift of models in production: statistics, baselines, checks, schedules and alerts.

``compare`` judges one feature, ``profile`` makes a baseline, ``DriftDetector`` judges a window
against it, ``run_check`` does so against the stored baseline and records the result.
"""

from secmon_dagster.drift.baselines import load_baseline, save_baseline
from secmon_dagster.drift.checks import Window, run_check
from secmon_dagster.drift.compare import FeatureDrift, compare
from secmon_dagster.drift.detector import DriftDetector, create_drift_detector
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.profile import BaselineProfile, profile
from secmon_dagster.drift.registry import ModelDriftConfig
from secmon_dagster.drift.results import (
    BiasMetric,
    DriftCheckResult,
    DriftMetric,
    DriftReport,
    SafetyEvent,
)
from secmon_dagster.drift.scheduler import (
    DriftScheduler,
    configure_drift_scheduler,
    get_drift_scheduler,
)
from secmon_dagster.drift.statistics.named import KLDivergence, PopulationStabilityIndex
from secmon_dagster.drift.vocabulary import (
    AlertLevel,
    CatchUp,
    DriftType,
    ExecutionStatus,
    SafetySeverity,
    ScheduleInterval,
)

__all__ = [
    "AlertLevel",
    "BaselineProfile",
    "BiasMetric",
    "CatchUp",
    "DriftCheckResult",
    "DriftDetector",
    "DriftMetric",
    "DriftReport",
    "DriftScheduler",
    "DriftType",
    "ExecutionStatus",
    "FeatureDrift",
    "KLDivergence",
    "ModelDriftConfig",
    "PopulationStabilityIndex",
    "SafetyEvent",
    "SafetySeverity",
    "ScheduleInterval",
    "Thresholds",
    "Window",
    "compare",
    "configure_drift_scheduler",
    "create_drift_detector",
    "get_drift_scheduler",
    "load_baseline",
    "profile",
    "run_check",
    "save_baseline",
]
