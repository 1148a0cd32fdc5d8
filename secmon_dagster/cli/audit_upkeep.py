"""``secmon audit checkpoint|archive|restore|keys``: keeping the chain."""

from __future__ import annotations

import math
import signal
import time
from datetime import timedelta
from typing import Any

import typer

from secmon_dagster.audit.keys import KeyRing, key_file, load_signer, new_key_file, ring_file
from secmon_dagster.audit.logger import HashChainAuditLogger
from secmon_dagster.audit.outbox import Sequencer
from secmon_dagster.audit.signer import Publication
from secmon_dagster.audit.witness import witnesses
from secmon_dagster.cli.audit_options import JSON, URL, me, open_log, print_json
from secmon_dagster.errors import InvalidInputError, SecmonError
from secmon_dagster.settings import get_settings


def checkpoint(
    watch: bool = typer.Option(
        False, help="Go on: empty the outbox, and sign when entries or seconds are due."
    ),
    new_incarnation: bool = typer.Option(
        False, help="After a legitimate restore: go on under a new name. Needs --reason."
    ),
    reason: str | None = None,
    database: str | None = URL,
) -> None:
    """Sign the chain as it is now and publish that outside the database."""
    with open_log(database) as log:
        if new_incarnation:
            if not reason:
                raise InvalidInputError("--new-incarnation needs a --reason; it goes into the log")
            _report(log.new_incarnation(reason, actor=me()))
            return
        if watch:
            _watch(log)
        Sequencer(log.sequence).drain()
        _report(log.checkpoint())


def _report(publication: Publication) -> None:
    news = "signed" if publication.new else "nothing new"
    places = ", ".join(publication.published) or "nowhere"
    typer.echo(f"{news}: {publication.size} entries, published to {places}")
    for witness, why in publication.failed.items():
        typer.echo(f"  not published to {witness}: {why}", err=True)


def _watch(log: HashChainAuditLogger) -> None:
    """The signer process: until it is interrupted or terminated.

    A chain that contradicts what was signed gets no signature, but what comes after a restore or a
    repair does: so the process goes on asking, and says each time why it refuses.
    """
    settings = get_settings()
    load_signer(settings), witnesses(settings)  # a wrong setting ends it before it has begun
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sequencer = Sequencer(log.sequence).start()
    try:
        tried_at, signed_size = -math.inf, -1  # below 0: not signed, or not at every witness
        while True:
            try:
                size = log.head().seq
                enough = 0 <= signed_size <= size - settings.audit_checkpoint_entries
                waited = time.monotonic() - tried_at >= settings.audit_checkpoint_seconds
                if size != signed_size and (enough or waited):
                    tried_at, signed_size = time.monotonic(), -1
                    publication = log.checkpoint()
                    _report(publication)
                    if not publication.failed:
                        signed_size = publication.size
            except SecmonError as refused:
                typer.echo("not signed: " + " ".join(refused.diagnostics().split()), err=True)
                time.sleep(settings.audit_checkpoint_seconds)
            time.sleep(min(0.2, settings.audit_checkpoint_seconds))
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        sequencer.stop()


def archive(
    older_than_days: float = typer.Option(90.0, min=0.0),
    database: str | None = URL,
) -> None:
    """Move whole old partitions to files that prove themselves."""
    with open_log(database) as log:
        moved = log.archive(timedelta(days=older_than_days))
    for part in moved:
        typer.echo(f"{part.first_seq}–{part.last_seq} -> {part.file} sha256:{part.file_sha256}")
    if not moved:
        typer.echo("no full partition is that old")


def restore(first_seq: int, database: str | None = URL) -> None:
    """Bring the archived partition that begins at this entry back."""
    with open_log(database) as log:
        part = log.restore(first_seq)
    typer.echo(f"{part.first_seq}–{part.last_seq} are back")


def keys(
    rotate: bool = typer.Option(False, help="Make a new key; old notes stay valid."),
    as_json: bool = JSON,
) -> None:
    """Print the public keys by which checkpoints are checked."""
    settings = get_settings()
    if rotate:
        if settings.audit_signing_key is not None:
            raise InvalidInputError(
                "the key comes from SECMON_AUDIT_SIGNING_KEY; rotate it where it is kept"
            )
        new_key_file(key_file(settings), load_signer(settings).key.name)
    current = load_signer(settings).key
    ring = KeyRing.load(ring_file(settings))
    entries: list[dict[str, Any]] = [
        {"key": str(entry.key), "from_size": entry.from_size} for entry in ring.entries
    ]
    if current not in ring.keys:
        entries.append({"key": str(current), "from_size": None})
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        since = "from its first signature on" if entry["from_size"] is None else (
            f"from size {entry['from_size']}"
        )  # fmt: skip
        typer.echo(f"{entry['key']}  {since}")
