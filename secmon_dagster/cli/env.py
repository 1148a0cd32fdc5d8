"""``secmon env``: shell lines that point Dagster's own commands here."""

from __future__ import annotations

import shlex

import typer

app = typer.Typer(
    help="Shell lines that point Dagster here.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def env() -> None:
    """Print shell lines that point Dagster's own commands here: eval "$(secmon env)".

    Starts the embedded server if it is meant and isn't running, and brings the schema up to date.
    It then runs until `secmon db stop`.
    """
    from secmon_dagster.database import embedded
    from secmon_dagster.orchestration.instance import prepare
    from secmon_dagster.settings import get_settings

    if get_settings().database_url is None:
        embedded.start()
    for name, value in prepare().items():
        typer.echo(f"export {name}={shlex.quote(value)}")
