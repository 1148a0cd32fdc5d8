"""An op for each action of the posture services, to build jobs of.

Ids are inputs, so they come from the op before or from the run's config
(``ops: run_security_checks: inputs: instance_id: …``); all else is config.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from secmon_dagster.orchestration.posture import AgentManagement, SecurityMonitoring


class LayerConfig(dg.Config):
    """A layer to make; rules left out take their defaults."""

    name: str
    description: str = ""
    monitoring_mode: str = "active"
    rules: dict[str, Any] = Field(default={})


class InstanceConfig(dg.Config):
    """An agent to declare."""

    name: str
    session_id: str | None = None
    model_name: str | None = None
    scopes: list[str] | None = None
    owner_id: str | None = None


class AttachConfig(dg.Config):
    """What the instance was asked for."""

    prompt_context: str | None = None


class ActivityConfig(dg.Config):
    """An act to keep."""

    action: str
    details: dict[str, Any] = Field(default={})
    prompt: str | None = None
    output: str | None = None


class WorkflowConfig(dg.Config):
    """A workflow to declare: a job and its run config."""

    name: str
    workflow_type: str = "sequential"
    job_name: str = "agent_workflow"
    run_config: dict[str, Any] = Field(default={})
    owner_id: str | None = None


class SubWorkflowConfig(dg.Config):
    """When the child runs."""

    execution_order: int = 0
    condition: dict[str, Any] = Field(default={})


class ExecutionConfig(dg.Config):
    """What the workflow is to work on."""

    input_data: dict[str, Any] = Field(default={})


class PatternConfig(dg.Config):
    """One execution, as a pattern counts it."""

    pattern_type: str
    duration_ms: float
    success: bool
    security_score: float | None = None


@dg.op
def create_security_layer(config: LayerConfig, security: SecurityMonitoring) -> str:
    """Make a layer; its output is the id."""
    layer = security.service.create_security_layer(
        config.name,
        config=config.rules,
        monitoring_mode=config.monitoring_mode,
        description=config.description,
    )
    return layer.layer_id


@dg.op
def create_instance(config: InstanceConfig, agents: AgentManagement) -> str:
    """Declare an agent; its output is the id."""
    return agents.service.create_instance(
        config.name,
        session_id=config.session_id,
        model_name=config.model_name,
        scopes=config.scopes,
        owner_id=config.owner_id,
    ).instance_id


@dg.op
def attach_security_layer(
    config: AttachConfig, security: SecurityMonitoring, instance_id: str, layer_id: str
) -> str:
    """Put an instance under a layer; its output is the instance's id again."""
    security.service.attach_security_layer_to_instance(instance_id, layer_id, config.prompt_context)
    return instance_id


@dg.op
def log_instance_activity(
    config: ActivityConfig, security: SecurityMonitoring, instance_id: str
) -> str:
    """Keep an act of an instance, held against its layer's rules first; output as input."""
    security.service.log_instance_activity(
        instance_id,
        {
            "action": config.action,
            "details": config.details,
            "prompt": config.prompt,
            "output": config.output,
        },
    )
    return instance_id


@dg.op
def run_security_checks(
    context: dg.OpExecutionContext, security: SecurityMonitoring, instance_id: str
) -> float:
    """Run the six checks of one instance; its output is the score."""
    checks = security.service.run_security_checks(instance_id)
    profile = security.service.get_instance_security_profile(instance_id)
    context.add_output_metadata(
        {
            "security_score": profile.security_score,
            "band": str(profile.status),
            **{str(check.check_type): str(check.status) for check in checks},
        }
    )
    return profile.security_score


@dg.op
def create_workflow(config: WorkflowConfig, agents: AgentManagement) -> str:
    """Declare a workflow; its output is the id."""
    return agents.service.create_workflow(
        config.name,
        workflow_type=config.workflow_type,
        job_name=config.job_name,
        run_config=config.run_config,
        owner_id=config.owner_id,
    ).workflow_id


@dg.op
def add_sub_workflow(
    config: SubWorkflowConfig, agents: AgentManagement, parent_id: str, child_id: str
) -> str:
    """Put one workflow under another; its output is the parent's id again."""
    agents.service.add_sub_workflow(parent_id, child_id, config.execution_order, config.condition)
    return parent_id


@dg.op
def execute_workflow(
    config: ExecutionConfig, agents: AgentManagement, workflow_id: str, instance_id: str
) -> str:
    """Take a workflow on, which the daemon then drives; its output is the execution's id."""
    return agents.service.execute_workflow_with_sub_workflows(
        workflow_id, config.input_data, instance_id=instance_id
    ).execution_id


@dg.op
def track_workflow_pattern(
    context: dg.OpExecutionContext,
    config: PatternConfig,
    security: SecurityMonitoring,
    workflow_id: str,
) -> None:
    """Count one execution of a workflow for its pattern."""
    pattern = security.service.track_workflow_pattern(
        workflow_id,
        config.pattern_type,
        {
            "duration_ms": config.duration_ms,
            "success": config.success,
            "security_score": config.security_score,
        },
    )
    context.add_output_metadata(
        {"executions": pattern.execution_count, "success_rate": pattern.success_rate}
    )
