"""Layers, instance profiles, checks and activity."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from secmon_dagster.api.auth import Administrator, Operator, Permission, Reader
from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import (
    ActivityIn,
    After,
    AttachIn,
    IdempotencyKey,
    IfNoneMatch,
    InstanceId,
    LayerId,
    LayerIn,
    Limit,
    PatternIn,
)
from secmon_dagster.api.work import read, write
from secmon_dagster.posture import (
    InstanceProfile,
    LoggedActivity,
    ScorePoint,
    SecurityCheck,
    SecurityLayer,
    SecurityMonitoringService,
    Violation,
    WorkflowPattern,
)

router = APIRouter(prefix="/api/security", tags=["security"])


@router.post(
    "/layers",
    status_code=201,
    response_model=SecurityLayer,
    responses=documented(409),
)
def create_layer(
    request: Request, who: Administrator, body: LayerIn, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a security layer."""
    return write(
        request,
        who,
        lambda session: SecurityMonitoringService(session).create_security_layer(
            body.name,
            config=body.config,
            monitoring_mode=body.monitoring_mode,
            description=body.description,
        ),
        body=body,
        status=201,
        location=lambda layer: f"/api/security/layers/{layer.layer_id}",
    )


@router.get("/layers", response_model=list[SecurityLayer])
def list_layers(
    request: Request,
    who: Reader,
    limit: Limit = 100,
    after: After = "",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Security layers by name."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).list_security_layers(
            limit=limit, after=after
        ),
        after=lambda layer: str(layer.name),
        limit=limit,
    )


@router.get("/layers/{layer_id}", response_model=SecurityLayer)
def get_layer(
    request: Request, who: Reader, layer_id: LayerId, if_none_match: IfNoneMatch = None
) -> Response:
    """One security layer."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_security_layer(layer_id),
    )


@router.post("/instances/{instance_id}/attach-layer", response_model=InstanceProfile)
def attach_layer(
    request: Request,
    who: Operator,
    instance_id: InstanceId,
    body: AttachIn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put an instance under a layer; a weaker one than it has takes an administrator."""
    return write(
        request,
        who,
        lambda session: SecurityMonitoringService(session).attach_security_layer_to_instance(
            instance_id,
            body.layer_id,
            body.prompt_context,
            may_loosen=who.may(Permission.ADMINISTER),
            credential=who.credential,
        ),
        body=body,
    )


@router.get("/instances/{instance_id}/profile", response_model=InstanceProfile)
def get_profile(
    request: Request, who: Reader, instance_id: InstanceId, if_none_match: IfNoneMatch = None
) -> Response:
    """Layer, recent prompts and acts, score and band of an instance."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_instance_security_profile(
            instance_id
        ),
    )


@router.get("/instances/{instance_id}/checks", response_model=list[SecurityCheck])
def get_checks(
    request: Request,
    who: Reader,
    instance_id: InstanceId,
    limit: Limit = 100,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Stored results of an instance, newest first."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_security_checks(
            instance_id, limit=limit
        ),
    )


@router.get("/instances/{instance_id}/scores", response_model=list[ScorePoint])
def get_scores(
    request: Request,
    who: Reader,
    instance_id: InstanceId,
    limit: Limit = 100,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """How the score of an instance moved, newest first."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_score_history(
            instance_id, limit=limit
        ),
    )


@router.get("/instances/{instance_id}/activity")
def get_activity(
    request: Request,
    who: Reader,
    instance_id: InstanceId,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """All acts of an instance, newest first."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_activity_log(
            instance_id, limit=limit, before=before
        ),
        after=lambda act: int(act["activity_id"]),
        cursor="before",
        limit=limit,
    )


@router.post(
    "/instances/{instance_id}/log-activity", status_code=201, response_model=LoggedActivity
)
def log_activity(
    request: Request,
    who: Operator,
    instance_id: InstanceId,
    body: ActivityIn,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Keep an act of an instance, held against its layer's rules first."""
    return write(
        request,
        who,
        lambda session: SecurityMonitoringService(session).log_instance_activity(
            instance_id, body.model_dump(), credential=who.credential
        ),
        body=body,
        status=201,
    )


@router.post("/instances/{instance_id}/check", response_model=list[SecurityCheck])
def run_checks(
    request: Request,
    who: Operator,
    instance_id: InstanceId,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run all six checks on the evidence of the last day and renew the score."""
    return write(
        request,
        who,
        lambda session: SecurityMonitoringService(session).run_security_checks(instance_id),
    )


@router.get("/instances/{instance_id}/violations", response_model=list[Violation])
def get_instance_violations(
    request: Request,
    who: Reader,
    instance_id: InstanceId,
    limit: Limit = 100,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Violations of an instance, newest first."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_violations(instance_id, limit=limit),
    )


@router.post("/patterns", status_code=201, response_model=WorkflowPattern)
def track_pattern(
    request: Request, who: Operator, body: PatternIn, idempotency_key: IdempotencyKey = None
) -> Response:
    """Count one execution of a workflow."""
    return write(
        request,
        who,
        lambda session: SecurityMonitoringService(session).track_workflow_pattern(
            body.workflow_id, body.pattern_type, body.execution_data.model_dump()
        ),
        body=body,
        status=201,
    )


@router.get("/patterns/successful", response_model=list[WorkflowPattern])
def get_successful_patterns(
    request: Request,
    who: Reader,
    min_success_rate: Annotated[float, Query(ge=0, le=100, allow_inf_nan=False)] = 80,
    limit: Limit = 100,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Successful patterns that emerged, best first."""
    return read(
        request,
        who,
        lambda session: SecurityMonitoringService(session).get_successful_patterns(
            min_success_rate, limit=limit
        ),
    )
