"""What Dagster loads: everything under ``defs/``, and the resources it may use."""

from pathlib import Path

import dagster as dg

from secmon_dagster.orchestration.executor import resource_limit_executor
from secmon_dagster.orchestration.posture import AgentManagement, SecurityMonitoring
from secmon_dagster.orchestration.resources import AuditLogResource
from secmon_dagster.orchestration.tables import TableIOManager
from secmon_dagster.orchestration.workflows import workflow_sensor


@dg.definitions
def defs() -> dg.Definitions:
    """The code location. Every job runs boxed unless it names another executor."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(
        loaded,
        dg.Definitions(sensors=[workflow_sensor(loaded.jobs or [])]),
        dg.Definitions(
            executor=resource_limit_executor,
            resources={
                "audit_log": AuditLogResource(),
                "tables": TableIOManager(),
                "security": SecurityMonitoring(),
                "agents": AgentManagement(),
            },
        ),
    )
