"""``secmon audit``: append to the chain, look at it, verify it, prove it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster.audit.entry import AuditEntry
from secmon_dagster.audit.store import Query
from secmon_dagster.cli import audit_proof, audit_upkeep
from secmon_dagster.cli.audit_options import JSON, URL, me, open_log, print_json
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.settings import get_settings

app = typer.Typer(
    help="The audit chain: append, look, verify, export, prove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _json_option(name: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as wrong:
        raise InvalidInputError(f"--{name} is no JSON: {wrong}") from None


@app.command()
def append(
    action: str,
    resource_type: str,
    resource_id: str | None = typer.Argument(None),
    actor: str | None = typer.Option(None, help="Who; unset means SECMON_USER or the login name."),
    data: str | None = typer.Option(None, help="JSON."),
    details: str | None = typer.Option(None, help="JSON."),
    level: str = "info",
    event_type: str | None = None,
    entry_id: str | None = typer.Option(None, help="Idempotency key."),
    database: str | None = URL,
) -> None:
    """Append one entry and print its id."""
    with open_log(database) as log:
        typer.echo(
            log.append_entry(
                action,
                actor or me(),
                resource_type,
                resource_id,
                _json_option("data", data),
                _json_option("details", details),
                level=level,
                event_type=event_type,
                entry_id=entry_id,
            )
        )


@app.command()
def show(entry_id: str, database: str | None = URL) -> None:
    """Print one entry."""
    with open_log(database) as log:
        entry = log.get_entry(entry_id)
    if entry is None:
        raise NotFoundError(f"no entry has the id {entry_id!r}")
    print_json(entry.to_dict())


@app.command()
def trail(
    actor: str | None = None,
    resource_type: str | None = None,
    resource_id: str | None = None,
    action: str | None = None,
    level: str | None = None,
    event_type: str | None = None,
    execution_id: str | None = None,
    job_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after_seq: int | None = typer.Option(None, help="For paging: only entries after this one."),
    newest_first: bool = False,
    include_superseded: bool = typer.Option(False, help="Show what rollbacks hide, too."),
    limit: int = 100,
    as_json: bool = JSON,
    database: str | None = URL,
) -> None:
    """List entries by any combination of conditions."""
    query = Query(
        actor=actor,
        resource_type=resource_type,
        resource_id=resource_id,
        action=action,
        level=level,
        event_type=event_type,
        execution_id=execution_id,
        job_id=job_id,
        since=since and since.astimezone(),
        until=until and until.astimezone(),
        after_seq=after_seq,
        newest_first=newest_first,
        include_superseded=include_superseded,
        limit=limit,
    )
    with open_log(database) as log:
        entries = log.find(query)
    if as_json:
        print_json([entry.to_dict() for entry in entries])
    else:
        _table(entries)


def _table(entries: Sequence[AuditEntry]) -> None:
    table = Table(box=None)
    for heading in ("seq", "time", "level", "action", "actor", "resource", "entry"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        resource = entry.resource_type + (f"/{entry.resource_id}" if entry.resource_id else "")
        moment = entry.timestamp.isoformat(sep=" ", timespec="milliseconds")
        table.add_row(
            str(entry.seq), moment, entry.level, entry.action, entry.actor, resource, entry.entry_id
        )
    Console().print(table)


@app.command()
def stats(database: str | None = URL) -> None:
    """Print counts, what no checkpoint covers yet, and what this database guarantees."""
    settings = get_settings()
    with open_log(database) as log:
        window = log.window()
        print_json(
            log.get_statistics()
            | {
                "uncovered": {
                    "entries": window.entries,
                    "seconds": round(window.seconds, 3),
                    "checkpoint_due_after_entries": settings.audit_checkpoint_entries,
                    "checkpoint_due_after_seconds": settings.audit_checkpoint_seconds,
                },
                "guarantees": log.describe_guarantees(),
            }
        )


@app.command()
def rollback(
    entry_hash: str,
    reason: str = typer.Option(..., help="Goes into the log."),
    database: str | None = URL,
) -> None:
    """Supersede everything after the entry with this hash. Nothing is lost."""
    with open_log(database) as log:
        found, removed = log.rollback_to_hash(entry_hash, actor=me(), reason=reason)
    if not found:
        raise NotFoundError(f"no entry has the hash {entry_hash}")
    typer.echo(f"{removed} entries are superseded")


app.command()(audit_proof.verify)
app.command()(audit_proof.export)
app.command("verify-export")(audit_proof.verify_export)
app.command()(audit_proof.prove)
app.command("check-proof")(audit_proof.check_proof_file)
app.command()(audit_upkeep.checkpoint)
app.command()(audit_upkeep.archive)
app.command()(audit_upkeep.restore)
app.command()(audit_upkeep.keys)
