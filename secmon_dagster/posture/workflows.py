"""Workflows and the tree of an execution: pure values and the rules for what happens next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.conditions import Condition


class WorkflowType(StrEnum):
    """How a workflow's children run: one after another, or all at once."""

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"


class NodeStatus(StrEnum):
    """How far one workflow of an execution has come."""

    PENDING = "pending"
    LAUNCHED = "launched"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (NodeStatus.PENDING, NodeStatus.LAUNCHED)


@dataclass(frozen=True, slots=True)
class AgentWorkflow:
    """A Dagster job with its run config.

    Attributes:
        configuration: the tenant's own notes; not interpreted.
        input_schema: JSON Schema of ``input_data``; None accepts any object.
        discovered: made because the job ran, not because someone declared it.
    """

    workflow_id: str
    owner_id: str
    name: str
    workflow_type: WorkflowType
    configuration: dict[str, Any]
    job_name: str
    run_config: dict[str, Any]
    input_schema: dict[str, Any] | None
    is_active: bool
    discovered: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SubWorkflow:
    """A child of a workflow; name and type are the child's."""

    subworkflow_id: str
    parent_workflow_id: str
    child_workflow_id: str
    child_workflow_name: str
    workflow_type: WorkflowType
    execution_order: int
    condition: dict[str, Any]
    is_active: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One workflow in the tree of an execution.

    Attributes:
        position: order among all nodes, parents before children.
        reason: why it was skipped or failed.
        metrics: the numbers its run reported, for the conditions of its children.
    """

    node_id: str
    parent_node_id: str | None
    workflow_id: str
    workflow_type: WorkflowType
    job_name: str
    run_config: dict[str, Any]
    position: int
    condition: dict[str, Any]
    status: NodeStatus
    reason: str | None
    run_id: str | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class WorkflowExecution:
    """One execution of a workflow with all that is under it.

    Attributes:
        status: ``running``, ``success`` or ``failed``.
        duration_ms: until it ended, or until now.
        nodes: its workflows, parents before children.
    """

    execution_id: str
    workflow_id: str
    instance_id: str | None
    status: str
    input_data: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None
    duration_ms: float
    nodes: list[Node]


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a node's run stands.

    Attributes:
        status: ``launched`` while it is under way, ``success`` or ``failed``.
        metrics: the numbers it reported.
    """

    run_id: str
    status: NodeStatus
    reason: str | None
    metrics: dict[str, float]


class WorkflowRuns(Protocol):
    """Where the runs of nodes happen: Dagster."""

    def launch(self, node: Node, tags: Mapping[str, str]) -> str | None:
        """Start the node's run; asked twice for one node it starts one run all the same.

        Returns:
            Why it can't be started; None when it was.
        """
        ...

    def report(self, node_id: str) -> RunReport | None:
        """How the node's run stands; None while there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Next:
    """What may happen now: nodes to launch, and nodes to skip with the reason."""

    launch: list[Node]
    skip: list[tuple[Node, str]]


def next_steps(nodes: Sequence[Node]) -> Next:
    """What an execution's tree allows now.

    A root is launched at once. A child waits for its parent's run; under a sequential parent also
    for everything beneath its elder siblings. If its condition on the parent fails it is skipped,
    and so is all beneath it.
    """
    by_id = {node.node_id: node for node in nodes}
    children: dict[str | None, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.position):
        children.setdefault(node.parent_node_id, []).append(node)

    def finished(node: Node) -> bool:
        return node.status.ended and all(map(finished, children.get(node.node_id, [])))

    launch: list[Node] = []
    skip: list[tuple[Node, str]] = []
    for node in nodes:
        if node.status is not NodeStatus.PENDING:
            continue
        if node.parent_node_id is None:
            launch.append(node)
            continue
        parent = by_id[node.parent_node_id]
        if not parent.status.ended:
            continue
        if parent.status is NodeStatus.SKIPPED:
            skip.append((node, "its parent was skipped"))
            continue
        elders = [s for s in children[parent.node_id] if s.position < node.position]
        if parent.workflow_type is WorkflowType.SEQUENTIAL and not all(map(finished, elders)):
            continue
        unmet = Condition.of(node.condition).unmet(parent.status, parent.metrics)
        if unmet is None:
            launch.append(node)
        else:
            skip.append((node, unmet))
    return Next(launch, skip)


def outcome(nodes: Iterable[Node]) -> NodeStatus | None:
    """How the whole execution ended: failed if any node failed; None while one is under way."""
    statuses = [node.status for node in nodes]
    if not all(status.ended for status in statuses):
        return None
    return NodeStatus.FAILED if NodeStatus.FAILED in statuses else NodeStatus.SUCCESS


def find_path(edges: Mapping[str, Iterable[str]], start: str, goal: str) -> list[str] | None:
    """The workflows on a way from ``start`` down to ``goal``; None when there is no way."""
    came_from: dict[str, str | None] = {start: None}
    todo = [start]
    while todo:
        here = todo.pop()
        if here == goal:
            path = [here]
            while (before := came_from[path[-1]]) is not None:
                path.append(before)
            return path[::-1]
        for child in edges.get(here, ()):
            if child not in came_from:
                came_from[child] = here
                todo.append(child)
    return None


def parse_type(value: object) -> WorkflowType:
    """The type called ``value``.

    Raises:
        InvalidInputError: there is none of that name.
    """
    if isinstance(value, str) and value in set(WorkflowType):
        return WorkflowType(value)
    raise InvalidInputError.of("workflow_type", value, ", ".join(WorkflowType))
