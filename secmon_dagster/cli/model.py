"""``secmon model``: models declared in YAML."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster.settings import MODELS

app = typer.Typer(
    help="Models declared in YAML: check, list.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def check(
    file: Path = typer.Argument(help="A defs.yaml of type secmon_dagster.MonitoredModel."),
    data: bool = typer.Option(True, help="Read the data too, and check its columns."),
) -> None:
    """Say what is wrong with a model's YAML, by line. Exit code 2 if anything is."""
    from secmon_dagster import training

    spec = training.filled(training.read_spec(file))
    training.classifier(spec.estimator)
    rows = ""
    if data:
        table = training.split(training.select(training.load(spec.data), spec), spec)
        features = training.feature_names(table, spec)
        training.build_pipeline(spec, features)
        rows = f", {len(table)} rows × {len(features)} features"
    typer.echo(f"{file}: model {spec.model_id} is fine{rows}")


@app.command("list")
def list_models() -> None:
    """Every declared model."""
    from secmon_dagster import training

    table = Table("model", "data", "estimator", "drift", box=None, pad_edge=False)
    for spec in training.read_specs(MODELS):
        table.add_row(
            spec.model_id,
            str(spec.data),
            spec.estimator.name,
            spec.drift.schedule if spec.drift.enabled else "off",
        )
    Console(highlight=False, markup=False).print(table)
