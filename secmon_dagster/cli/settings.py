"""``secmon settings``: every setting, its value, and where it came from."""

from __future__ import annotations

import os
from pathlib import Path

import typer
from dotenv import dotenv_values
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from secmon_dagster.settings import Settings, load_settings, variable_of

app = typer.Typer(
    help="Every setting, its value and its source.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def settings() -> None:
    """Print every setting with its value (secrets masked) and where it came from."""
    current = load_settings()
    in_file = dotenv_values(".env") if Path(".env").is_file() else {}
    table = Table("variable", "value", "from", "meaning", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        variable = variable_of(name)
        table.add_row(
            variable,
            _shown(getattr(current, name)),
            _source(variable, in_file),
            field.description or "",
        )
    Console(highlight=False, markup=False, soft_wrap=True, width=_width()).print(table)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return "********" if isinstance(value, SecretStr) else str(value)


def _source(variable: str, in_file: dict[str, str | None]) -> str:
    if os.environ.get(variable):
        return "environment"
    return ".env" if in_file.get(variable) else "default"


def _width() -> int | None:
    """The terminal's width, or wide enough for one setting a line where the output is a pipe."""
    return None if os.isatty(1) else 400
