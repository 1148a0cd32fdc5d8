"""``secmon api``: the REST API and its keys."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture import keys
from secmon_dagster.posture.session import Session
from secmon_dagster.settings import get_settings

app = typer.Typer(
    help="The REST API and its keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
key_app = typer.Typer(help="API keys.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(key_app, name="key")


@app.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes.")] = 1,
) -> None:
    """Serve the API on SECMON_BIND_HOST and SECMON_API_PORT until stopped."""
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    settings = get_settings()
    log = deepcopy(LOGGING_CONFIG)
    log["formatters"]["secmon"] = {
        "format": "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    }
    log["handlers"]["secmon"] = {"class": "logging.StreamHandler", "formatter": "secmon"}
    log["loggers"]["secmon"] = {"handlers": ["secmon"], "level": "INFO", "propagate": False}
    uvicorn.run(
        "secmon_dagster.api.app:create_app",
        factory=True,
        host=settings.bind_host,
        port=settings.api_port,
        workers=workers,
        http="secmon_dagster.api.connections:TimedConnection",
        log_config=log,
        access_log=False,  # ours has request ids
        server_header=False,
        timeout_keep_alive=15,
        limit_concurrency=256,
        timeout_graceful_shutdown=8,
    )


@key_app.command("create")
def create_key(
    user: Annotated[str, typer.Option(help="Whose rows the key sees.")],
    role: Annotated[str, typer.Option(help="viewer, operator, approver or admin.")] = "viewer",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float, typer.Option(help="Days until it expires, up to 3650.")] = 90.0,
    instance: Annotated[
        str | None, typer.Option(help="Bind the key to this agent instance.")
    ] = None,
) -> None:
    """Make a key and print it; it is shown this once."""
    if not 0 < days <= keys.LONGEST_LIFE.days:  # nor NaN
        raise InvalidInputError.of("days", days, f"more than 0, up to {keys.LONGEST_LIFE.days}")
    made, text = keys.create_key(
        Session.open(),
        user_id=user,
        role=role,
        name=name,
        lifetime=timedelta(days=days),
        instance_id=instance,
    )
    typer.echo(text)
    typer.echo(
        f"id {made.key_id}, role {made.role}, until {made.expires_at:%Y-%m-%d %H:%M %Z}; "
        "it won't be shown again",
        err=True,
    )


@key_app.command("list")
def list_keys() -> None:
    """All keys, without their secrets."""
    table = Table("id", "name", "user", "role", "instance", "expires", "last used", "state")
    for key in keys.list_keys(Session.open()):
        table.add_row(
            key.key_id,
            key.name,
            key.user_id,
            key.role,
            key.instance_id or "",
            f"{key.expires_at:%Y-%m-%d}",
            f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never",
            key.state,
        )
    Console().print(table)


@key_app.command("revoke")
def revoke_key(key_id: str) -> None:
    """End a key now."""
    revoked = keys.revoke_key(Session.open(), key_id)
    typer.echo(f"{revoked.key_id} is revoked")
