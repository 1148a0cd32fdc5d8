"""No file reaches production unread.

The gate runs security scripts on an artifact's bytes, writes what they said, and hands the bytes
out only while a verdict on exactly these bytes lets them pass. :class:`Gatekeeper` is the whole of
it; the functions are its parts under their documented names.
"""

from secmon_dagster.gate.artifact import Artifact
from secmon_dagster.gate.decision import refusal
from secmon_dagster.gate.gatekeeper import Gatekeeper
from secmon_dagster.gate.history import (
    Sensitivity,
    check_artifact_sensitivity,
    save_monitoring_result,
)
from secmon_dagster.gate.isolation import Isolation
from secmon_dagster.gate.runner import run_security_check
from secmon_dagster.gate.sandbox import strongest_isolation
from secmon_dagster.gate.verdict import Action, MonitoringResult, Outcome, Verdict

__all__ = [
    "Action",
    "Artifact",
    "Gatekeeper",
    "Isolation",
    "MonitoringResult",
    "Outcome",
    "Sensitivity",
    "Verdict",
    "check_artifact_sensitivity",
    "refusal",
    "run_security_check",
    "save_monitoring_result",
    "strongest_isolation",
]
