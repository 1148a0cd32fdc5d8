"""Reading the workflow tables: rows in, values out."""

from __future__ import annotations

from secmon_dagster.errors import NotFoundError
from secmon_dagster.posture.session import Connection
from secmon_dagster.posture.store import Row, fetch, fetch_one
from secmon_dagster.posture.workflows import AgentWorkflow, SubWorkflow, WorkflowType

SUB_WORKFLOWS = (
    "SELECT s.subworkflow_id, s.parent_workflow_id, s.child_workflow_id, "
    "w.name AS child_workflow_name, w.workflow_type, s.execution_order, s.condition, s.is_active "
    "FROM sub_workflows s JOIN agent_workflows w ON w.workflow_id = s.child_workflow_id "
)


def workflow_of(row: Row) -> AgentWorkflow:
    """A workflow from its row."""
    return AgentWorkflow(**{**row, "workflow_type": WorkflowType(row["workflow_type"])})


def sub_workflow_of(row: Row) -> SubWorkflow:
    """A child from its row."""
    return SubWorkflow(**{**row, "workflow_type": WorkflowType(row["workflow_type"])})


def require_workflow(connection: Connection, workflow_id: str) -> AgentWorkflow:
    """The workflow, or :class:`NotFoundError` when there is none the session may see."""
    row = fetch_one(connection, "SELECT * FROM agent_workflows WHERE workflow_id = %s", workflow_id)
    if row is None:
        raise NotFoundError(f"There is no workflow {workflow_id!r}")
    return workflow_of(row)


def sub_workflows_of(connection: Connection, parent_workflow_id: str) -> list[SubWorkflow]:
    """The children of a workflow, in order."""
    rows = fetch(
        connection,
        SUB_WORKFLOWS + "WHERE parent_workflow_id = %s ORDER BY execution_order, s.created_at, "
        "subworkflow_id",
        parent_workflow_id,
    )
    return [sub_workflow_of(row) for row in rows]
