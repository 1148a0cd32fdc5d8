"""``secmon up``: the whole platform in the foreground."""

from __future__ import annotations

from contextlib import nullcontext

import typer

app = typer.Typer(
    help="Run the whole platform in the foreground.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def up() -> None:
    """Run database, code server, UI, daemon, signer, API, metrics; Ctrl-C or SIGTERM stops all."""
    from secmon_dagster.database import embedded
    from secmon_dagster.orchestration.instance import prepare
    from secmon_dagster.orchestration.platform import Platform
    from secmon_dagster.settings import MODELS, get_settings
    from secmon_dagster.training import read_specs

    read_specs(MODELS)  # one mistake, and the code server loads no job, schedule or sensor at all
    own_server = get_settings().database_url is not None
    with nullcontext() if own_server else embedded.hold():
        prepare()
        typer.echo(f"{'PostgreSQL':<12} {'your own' if own_server else 'embedded'}")
        Platform().run(typer.echo)
