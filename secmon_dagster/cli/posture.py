"""``secmon posture``: layers, instances, checks and workflows."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster.orchestration.prompts import DetectorInUse
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService

app = typer.Typer(
    help="Layers, instances, checks and workflows.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def layers() -> None:
    """The security layers and their rules."""
    table = Table("id", "name", "mode", "time", "memory", "network", "approval", "ends", "a minute")
    for layer in SecurityMonitoringService().list_security_layers(limit=1000):
        rules = layer.config
        table.add_row(
            layer.layer_id,
            layer.name,
            layer.monitoring_mode,
            f"{rules.max_execution_time / 60_000:g} min",
            f"{rules.max_memory_mb} MB",
            _yes(rules.allowed_network_access),
            _yes(rules.require_approval),
            _yes(rules.auto_terminate_on_violation),
            str(rules.max_requests_per_minute),
        )
    Console().print(table)


@app.command()
def create(
    name: str,
    layer: Annotated[str, typer.Option(help="Id of the layer it runs under.")] = "default",
    owner: Annotated[str | None, typer.Option(help="Whose instance it is.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="An action it may take; repeat for more.")
    ] = None,
) -> None:
    """Declare an agent instance and put it under a layer; prints its id."""
    security = SecurityMonitoringService()
    security.get_security_layer(layer)
    instance = AgentManagementService().create_instance(name, scopes=scope, owner_id=owner)
    security.attach_security_layer_to_instance(instance.instance_id, layer)
    typer.echo(instance.instance_id)


@app.command()
def attach(instance_id: str, layer_id: str) -> None:
    """Put an instance under another layer."""
    profile = SecurityMonitoringService().attach_security_layer_to_instance(instance_id, layer_id)
    typer.echo(f"{instance_id} is under {profile.layer_id}")


@app.command()
def check(instance_id: str) -> None:
    """Run the six checks of an instance. Exit code 1 if one of them failed."""
    service = SecurityMonitoringService(detector=DetectorInUse())
    checks = service.run_security_checks(instance_id)
    table = Table("check", "status", "severity", "why")
    for result in checks:
        table.add_row(result.check_type, result.status, result.severity, result.description)
    Console().print(table)
    history = service.get_score_history(instance_id, limit=1)
    if history:
        typer.echo(f"score {history[0].score:g}: {history[0].status}")
    raise typer.Exit(int(any(result.status == "failed" for result in checks)))


@app.command()
def instances() -> None:
    """The instances, their owners and models."""
    table = Table("id", "name", "owner", "model", "created")
    for instance in AgentManagementService().list_instances(limit=1000):
        table.add_row(
            instance.instance_id,
            instance.name,
            instance.owner_id,
            instance.model_name or "",
            f"{instance.created_at:%Y-%m-%d %H:%M}",
        )
    Console().print(table)


@app.command()
def patterns(
    min_success_rate: Annotated[float, typer.Option(help="Percent, 0 to 100.")] = 80.0,
) -> None:
    """Workflow patterns that have proven themselves."""
    table = Table("workflow", "executions", "success rate", "mean ms", "score", "emerged")
    for pattern in SecurityMonitoringService().get_successful_patterns(min_success_rate):
        score = pattern.security_score
        table.add_row(
            pattern.workflow_id,
            str(pattern.execution_count),
            f"{pattern.success_rate:g} %",
            f"{pattern.avg_duration_ms:g}",
            "" if score is None else f"{score:g}",
            f"{pattern.emerged_at:%Y-%m-%d %H:%M}",
        )
    Console().print(table)


@app.command()
def execute(workflow_id: str) -> None:
    """Take a workflow on; Dagster's daemon executes it and all beneath it."""
    execution = AgentManagementService().execute_workflow_with_sub_workflows(workflow_id)
    typer.echo(execution.execution_id)


@app.command()
def execution(execution_id: str) -> None:
    """How an execution stands."""
    found = AgentManagementService().get_execution(execution_id)
    table = Table("workflow", "status", "run", "why")
    for node in found.nodes:
        table.add_row(node.workflow_id, node.status, node.run_id or "", node.reason or "")
    Console().print(table)
    typer.echo(f"{found.status} after {found.duration_ms:.0f} ms")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
