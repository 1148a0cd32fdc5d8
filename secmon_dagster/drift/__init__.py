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
from secmon_dagster.drift.results import (
    BiasMetric,
    DriftCheckResult,
    DriftMetric,
    DriftReport,
    SafetyEvent,
)
from secmon_dagster.drift.vocabulary import (
    AlertLevel,
    DriftType,
    ExecutionStatus,
    SafetySeverity,
    ScheduleInterval,
)

__all__ = [
    "AlertLevel",
    "BaselineProfile",
    "BiasMetric",
    "DriftCheckResult",
    "DriftDetector",
    "DriftMetric",
    "DriftReport",
    "DriftType",
    "ExecutionStatus",
    "FeatureDrift",
    "SafetyEvent",
    "SafetySeverity",
    "ScheduleInterval",
    "Thresholds",
    "Window",
    "compare",
    "create_drift_detector",
    "load_baseline",
    "profile",
    "run_check",
    "save_baseline",
]
