"""Posture: under which rules an agent instance runs, what it did, and how far to trust it.

Layers hold the rules, activity is the evidence, six checks judge it and a score sums them up;
patterns say which workflows have proven themselves, and workflows are Dagster jobs with children
that run on conditions. ``SecurityMonitoringService`` and ``AgentManagementService`` are the doors.
"""

from secmon_dagster.posture.activity import LoggedActivity, RefusedActError, ThrottledError
from secmon_dagster.posture.agents import AgentManagementService
from secmon_dagster.posture.layers import (
    DEFAULT_LAYER,
    STRICT_LAYER,
    LayerConfig,
    MonitoringMode,
    SecurityLayer,
)
from secmon_dagster.posture.patterns import ExecutionData, PatternType, WorkflowPattern
from secmon_dagster.posture.records import (
    Activity,
    AgentInstance,
    Credential,
    InstanceProfile,
    ScorePoint,
    SecurityCheck,
    Violation,
)
from secmon_dagster.posture.score import Band, CheckStatus, CheckType, Severity, band, score
from secmon_dagster.posture.service import SecurityMonitoringService, layer_limits
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.workflows import (
    AgentWorkflow,
    SubWorkflow,
    WorkflowExecution,
    WorkflowRuns,
    WorkflowType,
)

__all__ = [
    "DEFAULT_LAYER",
    "STRICT_LAYER",
    "Activity",
    "AgentInstance",
    "AgentManagementService",
    "AgentWorkflow",
    "Band",
    "CheckStatus",
    "CheckType",
    "Credential",
    "ExecutionData",
    "InstanceProfile",
    "LayerConfig",
    "LoggedActivity",
    "MonitoringMode",
    "PatternType",
    "RefusedActError",
    "ScorePoint",
    "SecurityCheck",
    "SecurityLayer",
    "SecurityMonitoringService",
    "Session",
    "Severity",
    "SubWorkflow",
    "ThrottledError",
    "Violation",
    "WorkflowExecution",
    "WorkflowPattern",
    "WorkflowRuns",
    "WorkflowType",
    "band",
    "layer_limits",
    "score",
]
