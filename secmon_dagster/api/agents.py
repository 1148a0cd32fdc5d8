"""Agent instances, workflows and what is under them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from secmon_dagster.api.auth import Operator, Reader
from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import (
    After,
    ExecuteIn,
    ExecutionId,
    IdempotencyKey,
    IfNoneMatch,
    InstanceId,
    InstanceIn,
    Limit,
    SubWorkflowIn,
    WorkflowId,
    WorkflowIn,
)
from secmon_dagster.api.work import read, write
from secmon_dagster.errors import NotFoundError
from secmon_dagster.posture import (
    AgentInstance,
    AgentManagementService,
    AgentWorkflow,
    SubWorkflow,
    WorkflowExecution,
)

router = APIRouter(prefix="/api/agent", tags=["agent"])


@router.post("/instances", status_code=201, response_model=AgentInstance)
def create_instance(
    request: Request, who: Operator, body: InstanceIn, idempotency_key: IdempotencyKey = None
) -> Response:
    """Declare an agent."""
    return write(
        request,
        who,
        lambda session: AgentManagementService(session).create_instance(**body.model_dump()),
        body=body,
        status=201,
        location=lambda instance: f"/api/agent/instances/{instance.instance_id}",
    )


@router.get("/instances", response_model=list[AgentInstance])
def list_instances(
    request: Request,
    who: Reader,
    limit: Limit = 100,
    after: After = "",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Agents by id."""
    return read(
        request,
        who,
        lambda session: AgentManagementService(session).list_instances(limit=limit, after=after),
        after=lambda instance: str(instance.instance_id),
        limit=limit,
    )


@router.get("/instances/{instance_id}", response_model=AgentInstance)
def get_instance(
    request: Request, who: Reader, instance_id: InstanceId, if_none_match: IfNoneMatch = None
) -> Response:
    """One agent."""
    return read(
        request, who, lambda session: AgentManagementService(session).get_instance(instance_id)
    )


@router.post("/workflows", status_code=201, response_model=AgentWorkflow)
def create_workflow(
    request: Request, who: Operator, body: WorkflowIn, idempotency_key: IdempotencyKey = None
) -> Response:
    """Declare a workflow: a Dagster job and its run config."""
    return write(
        request,
        who,
        lambda session: AgentManagementService(session).create_workflow(**body.model_dump()),
        body=body,
        status=201,
        location=lambda workflow: f"/api/agent/workflows/{workflow.workflow_id}",
    )


@router.get("/workflows", response_model=list[AgentWorkflow])
def list_workflows(
    request: Request,
    who: Reader,
    limit: Limit = 100,
    after: After = "",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Workflows by id."""
    return read(
        request,
        who,
        lambda session: AgentManagementService(session).list_workflows(limit=limit, after=after),
        after=lambda workflow: str(workflow.workflow_id),
        limit=limit,
    )


@router.get("/workflows/{workflow_id}", response_model=AgentWorkflow)
def get_workflow(
    request: Request, who: Reader, workflow_id: WorkflowId, if_none_match: IfNoneMatch = None
) -> Response:
    """One workflow."""
    return read(
        request, who, lambda session: AgentManagementService(session).get_workflow(workflow_id)
    )


@router.post(
    "/workflows/{parent_id}/subworkflows",
    status_code=201,
    response_model=SubWorkflow,
    responses=documented(409),
)
def add_sub_workflow(
    request: Request,
    who: Operator,
    parent_id: WorkflowId,
    body: SubWorkflowIn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put one workflow under another."""
    return write(
        request,
        who,
        lambda session: AgentManagementService(session).add_sub_workflow(
            parent_id, body.child_workflow_id, body.execution_order, body.condition
        ),
        body=body,
        status=201,
    )


@router.get("/workflows/{parent_id}/subworkflows", response_model=list[SubWorkflow])
def get_sub_workflows(
    request: Request, who: Reader, parent_id: WorkflowId, if_none_match: IfNoneMatch = None
) -> Response:
    """The children of a workflow, in order."""
    return read(
        request, who, lambda session: AgentManagementService(session).get_sub_workflows(parent_id)
    )


@router.post(
    "/workflows/{workflow_id}/execute-with-subs",
    status_code=202,
    response_model=WorkflowExecution,
    responses=documented(409),
)
def execute_workflow(
    request: Request,
    who: Operator,
    workflow_id: WorkflowId,
    body: ExecuteIn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Take a workflow on; Dagster's daemon executes it and all beneath it."""
    if who.instance_id is not None and body.instance_id not in (None, who.instance_id):
        raise NotFoundError(f"There is no agent instance {body.instance_id!r}")
    return write(
        request,
        who,
        lambda session: AgentManagementService(session).execute_workflow_with_sub_workflows(
            workflow_id, body.input_data, instance_id=body.instance_id or who.instance_id
        ),
        body=body,
        status=202,
        location=lambda execution: f"/api/agent/executions/{execution.execution_id}",
    )


@router.get("/executions/{execution_id}", response_model=WorkflowExecution)
def get_execution(
    request: Request, who: Reader, execution_id: ExecutionId, if_none_match: IfNoneMatch = None
) -> Response:
    """How an execution stands."""
    return read(
        request, who, lambda session: AgentManagementService(session).get_execution(execution_id)
    )
