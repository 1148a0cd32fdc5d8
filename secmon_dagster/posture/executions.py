"""Executions of workflows: written whole, then taken from step to step by whoever drives them.

The tree is in the database before anything starts, and each step is a transaction that can be
repeated: a process that dies between two of them leaves nothing a successor couldn't continue.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.posture.conditions import SCORE
from secmon_dagster.posture.records import require_json
from secmon_dagster.posture.schemas import violation_of
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import Row, fetch, fetch_one, require_instance
from secmon_dagster.posture.workflow_store import require_workflow, sub_workflows_of
from secmon_dagster.posture.workflows import (
    AgentWorkflow,
    Node,
    NodeStatus,
    WorkflowExecution,
    WorkflowRuns,
    WorkflowType,
    next_steps,
    outcome,
)

NODE_TAG = "secmon/node"
EXECUTION_TAG = "secmon/execution"
WORKFLOW_TAG = "secmon/workflow"
PARENT_RUN_TAG = "secmon/parent-run"
INSTANCE_TAG = "secmon/instance"
USER_TAG = "secmon/user"
# A tree is written whole; shared children make it grow faster than the graph it comes from.
MAX_NODES = 500


def start(
    session: Session,
    workflow_id: str,
    input_data: Mapping[str, Any],
    *,
    instance_id: str | None = None,
    driver: str = "daemon",
) -> WorkflowExecution:
    """Write an execution and its tree. Nothing has started yet.

    Raises:
        NotFoundError: no such workflow or instance.
        ConflictError: the workflow is inactive.
        InvalidInputError: the input breaks the workflow's schema, or the tree is too large.
    """
    require_json("input_data", input_data)
    with session.begin() as connection:
        root = require_workflow(connection, workflow_id)
        if not root.is_active:
            raise ConflictError(f"Workflow {root.name!r} is not active")
        if instance_id is not None:
            require_instance(connection, instance_id)
        if root.input_schema is not None:
            broken = violation_of(root.input_schema, dict(input_data))
            if broken is not None:
                raise InvalidInputError(
                    f"input_data breaks the schema of {root.name!r}: {broken}", field="input_data"
                )
        row = fetch_one(
            connection,
            "INSERT INTO workflow_executions (owner_id, requested_by, workflow_id, instance_id, "
            "input_data, driver) VALUES (%s, %s, %s, %s, %s, %s) RETURNING execution_id",
            root.owner_id,
            session.actor,
            workflow_id,
            instance_id,
            Jsonb(dict(input_data)),
            driver,
        )
        assert row is not None
        execution_id = row["execution_id"]
        _write_tree(connection, execution_id, root)
        session.record(
            connection,
            "execute_workflow",
            "agent_workflow",
            resource_id=workflow_id,
            details={"execution_id": execution_id, "instance_id": instance_id},
            event_type="execution.start",
        )
        return load(connection, execution_id)


def load(connection: Connection, execution_id: str) -> WorkflowExecution:
    """The execution with its nodes.

    Raises:
        NotFoundError: there is none the session may see.
    """
    row = fetch_one(
        connection,
        "SELECT execution_id, workflow_id, instance_id, status, input_data, started_at, ended_at, "
        "extract(epoch FROM coalesce(ended_at, clock_timestamp()) - started_at) * 1000 "
        "AS duration_ms FROM workflow_executions WHERE execution_id = %s",
        execution_id,
    )
    if row is None:
        raise NotFoundError(f"There is no workflow execution {execution_id!r}")
    return WorkflowExecution(
        **{
            **row,
            "duration_ms": float(row["duration_ms"]),
            "nodes": _nodes(connection, execution_id),
        }
    )


def open_executions(session: Session) -> list[str]:
    """The executions that Dagster's daemon still has to drive, oldest first."""
    with session.begin() as connection:
        rows = fetch(
            connection,
            "SELECT execution_id FROM workflow_executions WHERE status = 'running' "
            "AND driver = 'daemon' ORDER BY started_at",
        )
    return [row["execution_id"] for row in rows]


def advance(session: Session, execution_id: str, runs: WorkflowRuns) -> WorkflowExecution:
    """Do all that can be done now: take in how runs ended, skip, launch, and close at the end.

    May be repeated at any time and after any crash.
    """
    with session.begin() as connection:
        # Drivers of one execution take turns.
        connection.execute(
            "SELECT FROM workflow_executions WHERE execution_id = %s FOR UPDATE", (execution_id,)
        )
        execution = load(connection, execution_id)
        if execution.status != "running":
            return execution
        for node in execution.nodes:
            if node.status is NodeStatus.LAUNCHED:
                _take_in(connection, execution, node, runs)
        to_launch = _mark_next(connection, execution_id)
        _close_if_done(session, connection, execution_id)
        execution = load(connection, execution_id)
        tags = {node.node_id: _tags(connection, execution, node) for node in to_launch}
    # Only now, when the database knows: a launch it doesn't know of could happen twice. The other
    # way round, a launch that is lost with this process is asked for again by the next step.
    refused = {
        node.node_id: reason
        for node in to_launch
        if (reason := runs.launch(node, tags[node.node_id])) is not None
    }
    if refused:
        with session.begin() as connection:
            for node_id, reason in refused.items():
                connection.execute(
                    "UPDATE workflow_nodes SET status = 'failed', reason = %s, "
                    "ended_at = clock_timestamp() WHERE node_id = %s AND run_id IS NULL",
                    (reason, node_id),
                )
    return execution


def drive(
    session: Session, execution_id: str, runs: WorkflowRuns, *, poll_seconds: float = 0.2
) -> WorkflowExecution:
    """Advance an execution until it has ended.

    Raises:
        ConflictError: it belongs to Dagster's daemon.
    """
    with session.begin() as connection:
        row = fetch_one(
            connection,
            "SELECT driver FROM workflow_executions WHERE execution_id = %s",
            execution_id,
        )
    if row is not None and row["driver"] != "caller":
        raise ConflictError(f"Execution {execution_id!r} is driven by Dagster's daemon")
    while True:
        execution = advance(session, execution_id, runs)
        if execution.status != "running":
            return execution
        time.sleep(poll_seconds)


def _write_tree(connection: Connection, execution_id: str, root: AgentWorkflow) -> None:
    count = 0

    def write(
        workflow: AgentWorkflow,
        parent_node_id: str | None,
        subworkflow_id: str | None,
        condition: Mapping[str, Any],
    ) -> str:
        nonlocal count
        if count == MAX_NODES:
            raise InvalidInputError(
                f"{root.name!r} has more than {MAX_NODES} workflows under it", field="workflow_id"
            )
        row = fetch_one(
            connection,
            "INSERT INTO workflow_nodes (execution_id, parent_node_id, subworkflow_id, "
            "workflow_id, position, workflow_type, job_name, run_config, condition) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING node_id",
            execution_id,
            parent_node_id,
            subworkflow_id,
            workflow.workflow_id,
            count,
            workflow.workflow_type,
            workflow.job_name,
            Jsonb(workflow.run_config),
            Jsonb(dict(condition)),
        )
        assert row is not None
        count += 1
        return str(row["node_id"])

    def descend(workflow: AgentWorkflow, node_id: str) -> None:
        for sub in sub_workflows_of(connection, workflow.workflow_id):
            child = require_workflow(connection, sub.child_workflow_id)
            if sub.is_active and child.is_active:
                descend(child, write(child, node_id, sub.subworkflow_id, sub.condition))

    descend(root, write(root, None, None, {}))


def _nodes(connection: Connection, execution_id: str) -> list[Node]:
    rows = fetch(
        connection,
        "SELECT node_id, parent_node_id, workflow_id, workflow_type, job_name, run_config, "
        "position, condition, status, reason, run_id, metrics FROM workflow_nodes "
        "WHERE execution_id = %s ORDER BY position",
        execution_id,
    )
    return [_node_of(row) for row in rows]


def _node_of(row: Row) -> Node:
    return Node(
        **{
            **row,
            "workflow_type": WorkflowType(row["workflow_type"]),
            "status": NodeStatus(row["status"]),
        }
    )


def _take_in(
    connection: Connection, execution: WorkflowExecution, node: Node, runs: WorkflowRuns
) -> None:
    report = runs.report(node.node_id)
    if report is None or (report.status is node.status and report.run_id == node.run_id):
        return
    metrics = dict(report.metrics)
    if report.status.ended and execution.instance_id is not None:
        # Whatever its run reports: an instance doesn't say how far it can be trusted.
        metrics.pop(SCORE, None)
        profile = fetch_one(
            connection,
            "SELECT security_score FROM security_profiles WHERE instance_id = %s",
            execution.instance_id,
        )
        if profile is not None:
            metrics[SCORE] = float(profile["security_score"])
    connection.execute(
        "UPDATE workflow_nodes SET status = %s, reason = %s, run_id = %s, metrics = %s, "
        "ended_at = CASE WHEN %s THEN clock_timestamp() END WHERE node_id = %s",
        (
            report.status,
            report.reason,
            report.run_id,
            Jsonb(metrics),
            report.status.ended,
            node.node_id,
        ),
    )


def _mark_next(connection: Connection, execution_id: str) -> list[Node]:
    """Skip what must be skipped, which may allow more, and mark what is to be launched.

    Returns:
        The nodes to launch, with those whose launch was asked for before and shows no run yet.
    """
    while True:
        nodes = _nodes(connection, execution_id)
        step = next_steps(nodes)
        for node in step.launch:
            connection.execute(
                "UPDATE workflow_nodes SET status = 'launched', launched_at = clock_timestamp() "
                "WHERE node_id = %s",
                (node.node_id,),
            )
        for node, reason in step.skip:
            connection.execute(
                "UPDATE workflow_nodes SET status = 'skipped', reason = %s, "
                "ended_at = clock_timestamp() WHERE node_id = %s",
                (reason, node.node_id),
            )
        if not step.skip:
            lost = [n for n in nodes if n.status is NodeStatus.LAUNCHED and n.run_id is None]
            return lost + step.launch


def _close_if_done(session: Session, connection: Connection, execution_id: str) -> None:
    nodes = _nodes(connection, execution_id)
    ended = outcome(nodes)
    if ended is None:
        return
    connection.execute(
        "UPDATE workflow_executions SET status = %s, ended_at = clock_timestamp() "
        "WHERE execution_id = %s",
        (ended, execution_id),
    )
    failed = ended is NodeStatus.FAILED
    session.record(
        connection,
        "workflow_ended",
        "agent_workflow",
        resource_id=nodes[0].workflow_id,
        details={"execution_id": execution_id, "status": ended, "nodes": _summary(nodes)},
        event_type="execution.failed" if failed else "execution.complete",
        level="error" if failed else "info",
    )


def _summary(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    return [
        {
            "workflow_id": node.workflow_id,
            "status": node.status,
            "run_id": node.run_id,
            "reason": node.reason,
        }
        for node in nodes
    ]


def _tags(connection: Connection, execution: WorkflowExecution, node: Node) -> dict[str, str]:
    asked = fetch_one(
        connection,
        "SELECT requested_by FROM workflow_executions WHERE execution_id = %s",
        execution.execution_id,
    )
    assert asked is not None
    tags = {
        NODE_TAG: node.node_id,
        EXECUTION_TAG: execution.execution_id,
        WORKFLOW_TAG: node.workflow_id,
        # A run that needs approval is decided by somebody else than this one.
        USER_TAG: asked["requested_by"],
    }
    if execution.instance_id is not None:
        tags[INSTANCE_TAG] = execution.instance_id
    parent = next((n for n in execution.nodes if n.node_id == node.parent_node_id), None)
    if parent is not None and parent.run_id is not None:
        tags[PARENT_RUN_TAG] = parent.run_id
    return tags
