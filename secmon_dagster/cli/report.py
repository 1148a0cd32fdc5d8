"""``secmon report``: what happened in a period, for auditors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secmon_dagster.telemetry.export import moment
from secmon_dagster.telemetry.report import compliance_report

app = typer.Typer(
    help="Compliance reports.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """Forms of a report."""

    HTML = "html"
    JSON = "json"


@app.callback()
def _reports() -> None:
    """Compliance reports."""


@app.command()
def compliance(
    from_: Annotated[str, typer.Option("--from", help="2025-01-01, or with a time.")],
    to: Annotated[str | None, typer.Option(help="Likewise, not included; unset: now.")] = None,
    form: Annotated[Format, typer.Option("--format", help="html or json.")] = Format.HTML,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file.")] = None,
) -> None:
    """Who did what, what was blocked and approved, and up to where the chain is proven."""
    end = datetime.now(UTC) if to is None else moment("to", to)
    report = compliance_report(moment("from", from_), end)
    text = (
        report.to_html()
        if form is Format.HTML
        else json.dumps(report.to_dict(), default=str, indent=2) + "\n"
    )
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")
        typer.echo(f"report in {output}")
