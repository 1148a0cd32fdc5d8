"""What Dagster loads: everything under ``defs/``, and the resources it may use."""

from pathlib import Path

import dagster as dg

from secmon_dagster.orchestration.executor import resource_limit_executor
from secmon_dagster.orchestration.resources import AuditLogResource
from secmon_dagster.orchestration.tables import TableIOManager


@dg.definitions
def defs() -> dg.Definitions:
    """The code location. Every job runs boxed unless it names another executor."""
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(
            executor=resource_limit_executor,
            resources={"audit_log": AuditLogResource(), "tables": TableIOManager()},
        ),
    )
