"""``secmon metrics``: the exporter, and metrics as CSV."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from secmon_dagster.settings import get_settings
from secmon_dagster.telemetry import Exporter
from secmon_dagster.telemetry.export import from_prometheus, from_tables, moment, write_csv

app = typer.Typer(
    help="The metrics exporter and CSV export.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port; unset: SECMON_METRICS_PORT.")] = None,
    host: Annotated[str | None, typer.Option(help="Address; unset: SECMON_BIND_HOST.")] = None,
) -> None:
    """Serve /metrics until Ctrl-C or SIGTERM."""
    settings = get_settings()
    exporter = Exporter(host or settings.bind_host, settings.metrics_port if port is None else port)
    listening = exporter.start()
    typer.echo(f"metrics on http://{host or settings.bind_host}:{listening}/metrics")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: exporter.stop())
    exporter.wait()


@app.command()
def export(
    start_time: Annotated[str, typer.Option(help="2025-01-01, or with a time.")],
    end_time: Annotated[str | None, typer.Option(help="Likewise; unset: now.")] = None,
    step: Annotated[float, typer.Option(help="Seconds between samples.")] = 60.0,
    metric: Annotated[str | None, typer.Option(help="One metric only.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file.")] = Path("metrics.csv"),
    prometheus: Annotated[str | None, typer.Option(help="Ask this Prometheus instead.")] = None,
) -> None:
    """Write samples of a time range to a CSV file."""
    start = moment("start-time", start_time)
    end = datetime.now(UTC) if end_time is None else moment("end-time", end_time)
    every = timedelta(seconds=step)
    samples = (
        from_tables(start, end, step=every, metric=metric)
        if prometheus is None
        else from_prometheus(prometheus, start, end, step=every, metric=metric)
    )
    typer.echo(f"{write_csv(samples, output)} samples in {output}")
