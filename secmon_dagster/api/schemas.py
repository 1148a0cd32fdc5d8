"""What endpoints take, and the parameters they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field

# Anything printable may be asked for; what isn't there is 404.
_ID = r"^[^\x00-\x1f\x7f]{1,200}$"

InstanceId = Annotated[str, Path(pattern=_ID, description="Id of an agent instance.")]
LayerId = Annotated[str, Path(pattern=_ID, description="Id of a security layer.")]
WorkflowId = Annotated[str, Path(pattern=_ID, description="Id of a workflow.")]
ExecutionId = Annotated[str, Path(pattern=_ID, description="Id of a workflow execution.")]
RunId = Annotated[str, Path(pattern=_ID, description="Id of a Dagster run.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items in the answer.")]
After = Annotated[
    str, Query(max_length=200, pattern=r"^[^\x00]*$", description="Start behind this item.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Makes a retry harmless: the same key gives the same answer for 24 hours.",
    ),
]
IfNoneMatch = Annotated[
    str | None, Header(description="An ETag one has already; 304 when nothing changed.")
]

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LayerIn(_Body):
    """A layer to make."""

    name: Name = Field(examples=["Production Security Layer"])
    description: str = Field(default="", max_length=2000)
    config: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"max_execution_time": 180000, "max_memory_mb": 1024}],
    )
    monitoring_mode: Literal["passive", "active", "strict"] = "active"


class InstanceIn(_Body):
    """An agent to declare."""

    name: Name = Field(examples=["SEO Agent"])
    session_id: Name | None = None
    model_name: Name | None = Field(default=None, examples=["deepseek-coder"])
    scopes: list[Name] | None = Field(default=None, max_length=1000)
    activity_schemas: dict[str, dict[str, Any]] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)


class AttachIn(_Body):
    """A layer to put an instance under."""

    layer_id: Name = Field(examples=["default"])
    prompt_context: str | None = Field(default=None, max_length=100_000)


class ActivityIn(_Body):
    """An act of an instance."""

    action: Name = Field(examples=["execute_workflow"])
    details: dict[str, Any] = Field(default_factory=dict, examples=[{"duration_ms": 1500}])
    prompt: str | None = Field(default=None, max_length=100_000)
    output: str | None = Field(default=None, max_length=1_000_000)


class WorkflowIn(_Body):
    """A workflow to declare."""

    name: Name = Field(examples=["Main SEO Workflow"])
    workflow_type: Literal["sequential", "parallel"] = "sequential"
    configuration: dict[str, Any] = Field(default_factory=dict)
    job_name: str = Field(default="agent_workflow", max_length=200)
    run_config: dict[str, Any] = Field(default_factory=dict)
    input_schema: dict[str, Any] | None = None


class SubWorkflowIn(_Body):
    """A workflow to put under another."""

    child_workflow_id: Name
    execution_order: int = Field(default=0, ge=0, le=10_000)
    condition: dict[str, Any] = Field(
        default_factory=dict, examples=[{"status": "success", "score_above": 80}]
    )


class ExecutionDataIn(_Body):
    """One execution, as a pattern counts it."""

    duration_ms: float = Field(ge=0, le=1e12, allow_inf_nan=False)
    success: bool
    security_score: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)


class PatternIn(_Body):
    """An execution to count for a pattern."""

    workflow_id: Name
    pattern_type: Literal["successful", "failed", "optimized", "security_compliant"]
    execution_data: ExecutionDataIn


class ExecuteIn(_Body):
    """An execution to start."""

    input_data: dict[str, Any] = Field(default_factory=dict, examples=[{"target": "website.com"}])
    instance_id: Name | None = None
