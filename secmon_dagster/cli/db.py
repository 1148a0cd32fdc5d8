"""``secmon db``: the database alone."""

from __future__ import annotations

import typer

from secmon_dagster import database
from secmon_dagster.database import embedded
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.settings import get_settings

app = typer.Typer(
    help="The database: start, stop, status, migrate, url.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _embedded_only(verb: str) -> None:
    if get_settings().database_url is not None:
        raise InvalidInputError(
            f"SECMON_DATABASE_URL points to a server of your own; secmon does not {verb} it",
            hint="Unset SECMON_DATABASE_URL to use the embedded server.",
        )


@app.command()
def start() -> None:
    """Start the embedded server and bring the schema up to date."""
    _embedded_only("start")
    embedded.start()
    applied = database.migrate()
    typer.echo(f"running, pid {embedded.running_pid()}; {len(applied)} migrations applied")


@app.command()
def stop() -> None:
    """Stop the embedded server."""
    _embedded_only("stop")
    typer.echo("stopped" if embedded.stop() else "was not running")


@app.command()
def status() -> None:
    """Say whether the database answers and which migrations are pending. Exit code 3 if not."""
    with database.connect(database.Role.ADMIN) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    pending = database.pending_migrations()
    version = "?" if row is None else row[0]
    typer.echo(f"PostgreSQL {version} answers; pending migrations: {', '.join(pending) or 'none'}")


@app.command()
def migrate() -> None:
    """Bring the schema up to date."""
    applied = database.migrate()
    typer.echo("\n".join(applied) or "nothing to do")


@app.command()
def url() -> None:
    """Print the database's URL, password included: for psql and for scripts."""
    typer.echo(database.database_url())
