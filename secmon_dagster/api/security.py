"""Layers, instance profiles, checks and activity."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from secmon_dagster.api.auth import Permission
from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import (
    ActivityIn,
    AttachIn,
    InstanceId,
    LayerId,
    LayerIn,
    Limit,
    PatternIn,
)
from secmon_dagster.api.work import Administers, Operates, Pages, Reads
from secmon_dagster.orchestration.prompts import DetectorInUse
from secmon_dagster.posture import (
    InstanceProfile,
    LoggedActivity,
    ScorePoint,
    SecurityCheck,
    SecurityLayer,
    SecurityMonitoringService,
    Session,
    Violation,
    WorkflowPattern,
)

router = APIRouter(prefix="/api/security", tags=["security"])


def _service(session: Session) -> SecurityMonitoringService:
    return SecurityMonitoringService(session, detector=DetectorInUse())


@router.post(
    "/layers",
    status_code=201,
    response_model=SecurityLayer,
    responses=documented(409),
)
def create_layer(call: Administers, body: LayerIn) -> Response:
    """Make a security layer."""
    return call.write(
        lambda session: _service(session).create_security_layer(
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
def list_layers(call: Reads, page: Pages) -> Response:
    """Security layers by name."""
    return call.read(
        lambda session: _service(session).list_security_layers(limit=page.limit, after=page.after),
        after=lambda layer: str(layer.name),
        limit=page.limit,
    )


@router.get("/layers/{layer_id}", response_model=SecurityLayer)
def get_layer(call: Reads, layer_id: LayerId) -> Response:
    """One security layer."""
    return call.read(
        lambda session: _service(session).get_security_layer(layer_id),
    )


@router.post("/instances/{instance_id}/attach-layer", response_model=InstanceProfile)
def attach_layer(call: Operates, instance_id: InstanceId, body: AttachIn) -> Response:
    """Put an instance under a layer; a weaker one than it has takes an administrator."""
    return call.write(
        lambda session: _service(session).attach_security_layer_to_instance(
            instance_id,
            body.layer_id,
            body.prompt_context,
            may_loosen=call.who.may(Permission.ADMINISTER),
            credential=call.who.credential,
        ),
        body=body,
    )


@router.get("/instances/{instance_id}/profile", response_model=InstanceProfile)
def get_profile(call: Reads, instance_id: InstanceId) -> Response:
    """Layer, recent prompts and acts, score and band of an instance."""
    return call.read(
        lambda session: _service(session).get_instance_security_profile(instance_id),
    )


@router.get("/instances/{instance_id}/checks", response_model=list[SecurityCheck])
def get_checks(call: Reads, instance_id: InstanceId, limit: Limit = 100) -> Response:
    """Stored results of an instance, newest first."""
    return call.read(
        lambda session: _service(session).get_security_checks(instance_id, limit=limit),
    )


@router.get("/instances/{instance_id}/scores", response_model=list[ScorePoint])
def get_scores(call: Reads, instance_id: InstanceId, limit: Limit = 100) -> Response:
    """How the score of an instance moved, newest first."""
    return call.read(
        lambda session: _service(session).get_score_history(instance_id, limit=limit),
    )


@router.get("/instances/{instance_id}/activity")
def get_activity(
    call: Reads,
    instance_id: InstanceId,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
) -> Response:
    """All acts of an instance, newest first."""
    return call.read(
        lambda session: _service(session).get_activity_log(instance_id, limit=limit, before=before),
        after=lambda act: int(act["activity_id"]),
        cursor="before",
        limit=limit,
    )


@router.post(
    "/instances/{instance_id}/log-activity", status_code=201, response_model=LoggedActivity
)
def log_activity(call: Operates, instance_id: InstanceId, body: ActivityIn) -> Response:
    """Keep an act of an instance, held against its layer's rules first."""
    return call.write(
        lambda session: _service(session).log_instance_activity(
            instance_id, body.model_dump(), credential=call.who.credential
        ),
        body=body,
        status=201,
    )


@router.post("/instances/{instance_id}/check", response_model=list[SecurityCheck])
def run_checks(call: Operates, instance_id: InstanceId) -> Response:
    """Run all six checks on the evidence of the last day and renew the score."""
    return call.write(
        lambda session: _service(session).run_security_checks(instance_id),
    )


@router.get("/instances/{instance_id}/violations", response_model=list[Violation])
def get_instance_violations(call: Reads, instance_id: InstanceId, limit: Limit = 100) -> Response:
    """Violations of an instance, newest first."""
    return call.read(
        lambda session: _service(session).get_violations(instance_id, limit=limit),
    )


@router.post("/patterns", status_code=201, response_model=WorkflowPattern)
def track_pattern(call: Operates, body: PatternIn) -> Response:
    """Count one execution of a workflow."""
    return call.write(
        lambda session: _service(session).track_workflow_pattern(
            body.workflow_id, body.pattern_type, body.execution_data.model_dump()
        ),
        body=body,
        status=201,
    )


@router.get("/patterns/successful", response_model=list[WorkflowPattern])
def get_successful_patterns(
    call: Reads,
    min_success_rate: Annotated[float, Query(ge=0, le=100, allow_inf_nan=False)] = 80,
    limit: Limit = 100,
) -> Response:
    """Successful patterns that emerged, best first."""
    return call.read(
        lambda session: _service(session).get_successful_patterns(min_success_rate, limit=limit),
    )
