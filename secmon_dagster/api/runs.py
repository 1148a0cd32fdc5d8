"""What runs did: violations, usage, and approvals of runs that wait."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import Limit, RunId
from secmon_dagster.api.work import Approves, Reads
from secmon_dagster.posture import SecurityMonitoringService, Violation
from secmon_dagster.posture.approvals import RunApproval, decide, list_approvals
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import fetch

router = APIRouter(prefix="/api", tags=["runs"])

Text = Annotated[str | None, Query(pattern=r"^[^\x00]{1,200}$")]


class RunDecisionIn(BaseModel):
    """Why a run is let go or ended."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str | None = Field(default=None, min_length=1, max_length=2000, pattern=r"^[^\x00]*$")


@router.get("/violations", response_model=list[Violation])
def list_violations(call: Reads, limit: Limit = 100) -> Response:
    """Violations of all instances the caller may see, newest first."""
    return call.read(
        lambda session: SecurityMonitoringService(session).get_violations(limit=limit),
    )


@router.get("/usage")
def get_usage(
    call: Reads, run_id: Text = None, job_name: Text = None, limit: Limit = 100
) -> Response:
    """What steps used, newest first."""

    def usage(session: Session) -> Any:
        with session.begin() as connection:
            return fetch(
                connection,
                "SELECT * FROM step_usage WHERE (%s::text IS NULL OR run_id = %s) "
                "AND (%s::text IS NULL OR job_name = %s) "
                "ORDER BY ended_at DESC, run_id, step_key, attempt LIMIT %s",
                run_id,
                run_id,
                job_name,
                job_name,
                limit,
            )

    return call.read(usage)


@router.get("/approvals/runs", response_model=list[RunApproval])
def list_run_approvals(
    call: Reads, state: Literal["pending", "approved", "denied"] = "pending", limit: Limit = 100
) -> Response:
    """Runs that wait for a second person, or were decided, oldest first."""
    return call.read(lambda session: list_approvals(session, state=state, limit=limit))


@router.post(
    "/approvals/runs/{run_id}/approve", response_model=RunApproval, responses=documented(409)
)
def approve_run(call: Approves, run_id: RunId, body: RunDecisionIn) -> Response:
    """Let a waiting run go; the one who asked for it can't."""
    return call.write(
        lambda session: decide(session, run_id, approve=True, reason=body.reason),
        body=body,
    )


@router.post("/approvals/runs/{run_id}/deny", response_model=RunApproval, responses=documented(409))
def deny_run(call: Approves, run_id: RunId, body: RunDecisionIn) -> Response:
    """End a waiting run; the one who asked for it can't."""
    return call.write(
        lambda session: decide(session, run_id, approve=False, reason=body.reason),
        body=body,
    )
