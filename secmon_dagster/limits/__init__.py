"""Limits on processes: declare them, put a process in a box, watch it, name what ended it.

Stands on the ground: no database, no Dagster. ``limits(...)`` declares, ``run_boxed`` runs a
program or a function in a box, ``Supervisor`` runs many, ``probe`` tells what this machine can do.
"""

from secmon_dagster.limits.box import BoxedResult, run_boxed
from secmon_dagster.limits.capabilities import Capabilities, probe
from secmon_dagster.limits.declaration import (
    DEFAULT_LIMITS,
    LAYER_TAG,
    LIMITS_TAG,
    ResourceLimits,
    limits,
)
from secmon_dagster.limits.layers import LAYERS, layer_limits, tightened
from secmon_dagster.limits.manager import SecurityManager
from secmon_dagster.limits.suggest import Suggestion, suggest
from secmon_dagster.limits.violation import ResourceUsage, Severity, Violation, ViolationType

__all__ = [
    "DEFAULT_LIMITS",
    "LAYERS",
    "LAYER_TAG",
    "LIMITS_TAG",
    "BoxedResult",
    "Capabilities",
    "ResourceLimits",
    "ResourceUsage",
    "SecurityManager",
    "Severity",
    "Suggestion",
    "Violation",
    "ViolationType",
    "layer_limits",
    "limits",
    "probe",
    "run_boxed",
    "suggest",
    "tightened",
]
