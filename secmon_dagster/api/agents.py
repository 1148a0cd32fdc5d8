"""Agent instances, workflows and what is under them."""

from __future__ import annotations

from fastapi import APIRouter, Response

from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import (
    ExecuteIn,
    ExecutionId,
    InstanceId,
    InstanceIn,
    SubWorkflowIn,
    WorkflowId,
    WorkflowIn,
)
from secmon_dagster.api.work import Operates, Pages, Reads
from secmon_dagster.errors import NotFoundError, PermissionDeniedError
from secmon_dagster.posture import (
    AgentInstance,
    AgentManagementService,
    AgentWorkflow,
    SubWorkflow,
    WorkflowExecution,
)

router = APIRouter(prefix="/api/agent", tags=["agent"])


@router.post("/instances", status_code=201, response_model=AgentInstance)
def create_instance(call: Operates, body: InstanceIn) -> Response:
    """Declare an agent."""
    if call.who.instance_id is not None:
        raise PermissionDeniedError("The key of one agent declares no other")
    return call.write(
        lambda session: AgentManagementService(session).create_instance(**body.model_dump()),
        body=body,
        status=201,
        location=lambda instance: f"/api/agent/instances/{instance.instance_id}",
    )


@router.get("/instances", response_model=list[AgentInstance])
def list_instances(call: Reads, page: Pages) -> Response:
    """Agents by id."""
    return call.read(
        lambda session: AgentManagementService(session).list_instances(
            limit=page.limit, after=page.after
        ),
        after=lambda instance: str(instance.instance_id),
        limit=page.limit,
    )


@router.get("/instances/{instance_id}", response_model=AgentInstance)
def get_instance(call: Reads, instance_id: InstanceId) -> Response:
    """One agent."""
    return call.read(lambda session: AgentManagementService(session).get_instance(instance_id))


@router.post("/workflows", status_code=201, response_model=AgentWorkflow)
def create_workflow(call: Operates, body: WorkflowIn) -> Response:
    """Declare a workflow: a Dagster job and its run config."""
    return call.write(
        lambda session: AgentManagementService(session).create_workflow(**body.model_dump()),
        body=body,
        status=201,
        location=lambda workflow: f"/api/agent/workflows/{workflow.workflow_id}",
    )


@router.get("/workflows", response_model=list[AgentWorkflow])
def list_workflows(call: Reads, page: Pages) -> Response:
    """Workflows by id."""
    return call.read(
        lambda session: AgentManagementService(session).list_workflows(
            limit=page.limit, after=page.after
        ),
        after=lambda workflow: str(workflow.workflow_id),
        limit=page.limit,
    )


@router.get("/workflows/{workflow_id}", response_model=AgentWorkflow)
def get_workflow(call: Reads, workflow_id: WorkflowId) -> Response:
    """One workflow."""
    return call.read(lambda session: AgentManagementService(session).get_workflow(workflow_id))


@router.post(
    "/workflows/{parent_id}/subworkflows",
    status_code=201,
    response_model=SubWorkflow,
    responses=documented(409),
)
def add_sub_workflow(call: Operates, parent_id: WorkflowId, body: SubWorkflowIn) -> Response:
    """Put one workflow under another."""
    return call.write(
        lambda session: AgentManagementService(session).add_sub_workflow(
            parent_id, body.child_workflow_id, body.execution_order, body.condition
        ),
        body=body,
        status=201,
    )


@router.get("/workflows/{parent_id}/subworkflows", response_model=list[SubWorkflow])
def get_sub_workflows(call: Reads, parent_id: WorkflowId) -> Response:
    """The children of a workflow, in order."""
    return call.read(lambda session: AgentManagementService(session).get_sub_workflows(parent_id))


@router.post(
    "/workflows/{workflow_id}/execute-with-subs",
    status_code=202,
    response_model=WorkflowExecution,
    responses=documented(409),
)
def execute_workflow(call: Operates, workflow_id: WorkflowId, body: ExecuteIn) -> Response:
    """Take a workflow on; Dagster's daemon executes it and all beneath it."""
    if call.who.instance_id is not None and body.instance_id not in (None, call.who.instance_id):
        raise NotFoundError(f"There is no agent instance {body.instance_id!r}")
    return call.write(
        lambda session: AgentManagementService(session).execute_workflow_with_sub_workflows(
            workflow_id, body.input_data, instance_id=body.instance_id or call.who.instance_id
        ),
        body=body,
        status=202,
        location=lambda execution: f"/api/agent/executions/{execution.execution_id}",
    )


@router.get("/executions/{execution_id}", response_model=WorkflowExecution)
def get_execution(call: Reads, execution_id: ExecutionId) -> Response:
    """How an execution stands."""
    return call.read(lambda session: AgentManagementService(session).get_execution(execution_id))
