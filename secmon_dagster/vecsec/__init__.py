"""Prompt attacks: a detector that keeps learning, the agents that try it, and guarded retrieval.

``SecAgent`` gives verdicts, ``EvilAgent`` and ``LegitimateAgent`` write prompts, ``blind_test``
measures on families never seen.
"""

from secmon_dagster.vecsec.agents import EvilAgent, LegitimateAgent, Transform
from secmon_dagster.vecsec.blind_test import BlindTestResult, blind_test, evaluate
from secmon_dagster.vecsec.calibration import Threshold, conformal_threshold
from secmon_dagster.vecsec.corpus import Family, TrainingRow, base_corpus, families, read_rows
from secmon_dagster.vecsec.detector import Analysis, SecAgent, Verdict
from secmon_dagster.vecsec.model import DetectorModel
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.training import train

__all__ = [
    "Analysis",
    "AttackType",
    "BlindTestResult",
    "DetectorModel",
    "EvilAgent",
    "Family",
    "LegitimateAgent",
    "SecAgent",
    "Threshold",
    "TrainingRow",
    "Transform",
    "Verdict",
    "base_corpus",
    "blind_test",
    "conformal_threshold",
    "evaluate",
    "families",
    "read_rows",
    "train",
]
