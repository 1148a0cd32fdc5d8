"""Drift of watched models: what is watched, checks on demand, their history."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import Limit
from secmon_dagster.api.work import Operates, Pages, Reads
from secmon_dagster.drift import get_drift_scheduler

router = APIRouter(prefix="/api/drift", tags=["drift"])

ModelId = Annotated[
    str, Path(pattern=r"^[^\x00-\x1f\x7f]{1,200}$", description="Id of a watched model.")
]


class WindowIn(BaseModel):
    """Rows of the window to check, a list of objects with the model's features."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_data: list[dict[str, str | int | float | bool | None]] = Field(
        min_length=1, max_length=100_000
    )


@router.get("/models")
def list_models(call: Reads, page: Pages) -> Response:
    """Watched models by id, with their next check."""
    return call.read(
        lambda _: get_drift_scheduler().get_schedule(limit=page.limit, after=page.after)[
            "schedules"
        ],
        after=lambda model: str(model["model_id"]),
        limit=page.limit,
    )


@router.post("/models/{model_id}/run", responses=documented(409, 500))
def run_check(call: Operates, model_id: ModelId, body: WindowIn) -> Response:
    """Check rows now. Rows that can't be compared end as a failed check, not as an error."""

    def check() -> Any:
        rows = pd.DataFrame(body.input_data)
        return get_drift_scheduler().run_scheduled(model_id, input_data=rows).to_dict()

    return call.do(check, body=body)


@router.get("/history")
def get_history(
    call: Reads,
    model_id: Annotated[str | None, Query(pattern=r"^[^\x00]{1,200}$")] = None,
    status: Literal["completed", "failed", "skipped", "running", "pending"] | None = None,
    limit: Limit = 50,
) -> Response:
    """Checks, newest first."""
    return call.read(
        lambda _: [
            result.to_dict()
            for result in get_drift_scheduler().get_execution_history(model_id, status, limit)
        ],
    )


@router.get("/statistics")
def get_statistics(call: Reads) -> Response:
    """Totals over all models."""
    return call.read(lambda _: get_drift_scheduler().get_statistics())
