"""``secmon``: the subjects are imported only when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import typer
from rich.console import Console

from secmon_dagster import __version__
from secmon_dagster.errors import SecmonError
from secmon_dagster.settings import get_settings

# name -> (module, one line for the overview); importing all of them would cost every call a second.
SUBJECTS = {
    "db": ("secmon_dagster.cli.db", "The database: start, stop, status, migrate, url."),
    "model": ("secmon_dagster.cli.model", "Models declared in YAML: check, list."),
    "audit": ("secmon_dagster.cli.audit", "The audit chain: append, verify, export, prove."),
    "limits": ("secmon_dagster.cli.limits", "Run in a box, suggest limits, watch running steps."),
    "gate": ("secmon_dagster.cli.gate", "Check files, approve, re-scan."),
    "drift": ("secmon_dagster.cli.drift", "Drift checks: configure, run, compare, report."),
    "posture": ("secmon_dagster.cli.posture", "Layers, instances, checks and workflows."),
    "api": ("secmon_dagster.cli.api", "The REST API and its keys."),
    "vecsec": ("secmon_dagster.cli.vecsec", "The prompt-attack detector."),
    "metrics": ("secmon_dagster.cli.metrics", "The metrics exporter and CSV export."),
    "report": ("secmon_dagster.cli.report", "Compliance reports."),
    "settings": ("secmon_dagster.cli.settings", "Every setting, its value and its source."),
    "env": ("secmon_dagster.cli.env", "Shell lines that point Dagster here."),
    "doctor": ("secmon_dagster.cli.doctor", "What this machine can enforce, what is missing."),
    "up": ("secmon_dagster.cli.up", "Run the whole platform in the foreground."),
    "demo": ("secmon_dagster.cli.demo", "The main job, end to end, on this machine."),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secmon {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True),
) -> None:
    """Security monitoring for machine-learning platforms, built on Dagster."""


def build(words: list[str]) -> typer.Typer:
    """The command line with the subject that ``words`` ask for; the others are only listed."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_options)
    completing = "_SECMON_COMPLETE" in os.environ  # the shell asks what could come next
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, (module, overview) in SUBJECTS.items():
        if importlib.util.find_spec(module) is None:
            continue
        if completing or name == asked:
            subject = importlib.import_module(module).app
            app.add_typer(subject, name=name)
        else:
            app.add_typer(typer.Typer(help=overview), name=name)
    return app


def main() -> None:
    """Run the command line; an error of ours, or of a file, becomes one sentence and its exit
    code."""
    try:
        build(sys.argv[1:])()
    except SecmonError as error:
        _tell(error.diagnostics())
        sys.exit(error.exit_code)
    except OSError as failed:
        if failed.filename is None:
            raise
        home = get_settings().home.absolute()
        hint = f"\n  SECMON_HOME is {home}; point it to a folder that this user may write."
        ours = Path(os.fsdecode(failed.filename)).is_relative_to(home)
        _tell(f"{failed.filename}: {failed.strerror}{hint if ours else ''}")
        sys.exit(SecmonError.exit_code)


def _tell(error: str) -> None:
    Console(stderr=True, highlight=False).print(
        f"error: {error}", style="red", markup=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
