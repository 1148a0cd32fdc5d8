"""``secmon audit``: append to the chain, look at it, verify it, prove it."""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster.audit.entry import AuditEntry
from secmon_dagster.audit.export_check import check_export
from secmon_dagster.audit.keys import KeyRing, key_file, load_signer, new_key_file, ring_file
from secmon_dagster.audit.logger import HashChainAuditLogger
from secmon_dagster.audit.outbox import Sequencer
from secmon_dagster.audit.proof import check_proof
from secmon_dagster.audit.signer import Publication
from secmon_dagster.audit.store import Query
from secmon_dagster.audit.verification import Verdict
from secmon_dagster.audit.verify import Trust
from secmon_dagster.errors import (
    ChainTamperedError,
    CheckpointError,
    DatabaseError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.settings import get_settings

app = typer.Typer(
    help="The audit chain: append, look, verify, export, prove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_URL = typer.Option(None, "--database", help="Another database's URL.")
_JSON = typer.Option(False, "--json", help="Machine-readable output.")
_KEYS = typer.Option([], "--key", help="Public key of the log (NAME+ID+BASE64); may be repeated.")


def _me() -> str:
    return get_settings().user or getpass.getuser()


def _log(url: str | None) -> HashChainAuditLogger:
    return HashChainAuditLogger(url)


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


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
    database: str | None = _URL,
) -> None:
    """Append one entry and print its id."""
    with _log(database) as log:
        typer.echo(
            log.append_entry(
                action,
                actor or _me(),
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
def show(entry_id: str, database: str | None = _URL) -> None:
    """Print one entry."""
    with _log(database) as log:
        entry = log.get_entry(entry_id)
    if entry is None:
        raise NotFoundError(f"no entry has the id {entry_id!r}")
    _print(entry.to_dict())


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
    as_json: bool = _JSON,
    database: str | None = _URL,
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
    with _log(database) as log:
        entries = log.find(query)
    if as_json:
        _print([entry.to_dict() for entry in entries])
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
def stats(database: str | None = _URL) -> None:
    """Print counts and what this database guarantees."""
    with _log(database) as log:
        _print(log.get_statistics() | {"guarantees": log.describe_guarantees()})


@app.command()
def verify(
    first: int | None = typer.Option(None, help="First seq."),
    last: int | None = typer.Option(None, help="Last seq."),
    since: datetime | None = None,
    until: datetime | None = None,
    since_checkpoint: bool = typer.Option(False, help="Only what is newer than the checkpoint."),
    checkpoint_file: Path | None = typer.Option(
        None, "--checkpoint", help="A signed checkpoint that you kept; the log must agree with it."
    ),
    key: list[str] = _KEYS,
    workers: int | None = typer.Option(None, help="Processes; unset means one a core."),
    as_json: bool = _JSON,
    database: str | None = _URL,
) -> None:
    """Verify rows, links, head, roots and signatures. Exit: 0 good, 1 tampered, 2 can't tell."""
    try:
        with _log(database) as log:
            trust = log.trust()
            notes = [*trust.notes, *([] if checkpoint_file is None else [_read(checkpoint_file)])]
            ring = KeyRing.of(key) if key else trust.ring
            result = log.verification(
                since and since.astimezone(),
                until and until.astimezone(),
                first_seq=first,
                last_seq=last,
                since_checkpoint=since_checkpoint,
                trust=Trust(trust.name, ring, notes),
                workers=workers,
            )
    except DatabaseError as unreachable:
        typer.echo(f"can't tell: {unreachable.message}", err=True)
        raise typer.Exit(Verdict.UNKNOWN.exit_code) from None
    if as_json:
        _print(result.to_dict())
    else:
        typer.echo(
            f"{result.verdict}: {result.total_entries} entries, {result.invalid_count} invalid, "
            f"{result.break_count} breaks; {result.checkpoints_checked} checkpoints compared, "
            f"{result.uncovered_tail} entries newer than the last; {result.duration_ms:.0f} ms"
        )
        for finding in (
            *result.invalid_entries,
            *result.chain_breaks,
            *result.checkpoint_problems,
        ):
            typer.echo(
                f"  {finding.problem} at {finding.seq}"
                f"{f' ({finding.entry_id})' if finding.entry_id else ''}: "
                f"expected {finding.expected}, found {finding.found}"
            )
        for note in result.notes:
            typer.echo(f"  {note}")
    raise typer.Exit(result.verdict.exit_code)


@app.command()
def export(
    output: Path | None = typer.Option(None, "--output", "-o", help="Unset: standard output."),
    output_format: str = typer.Option("json", "--format", help="json, ndjson or csv."),
    first: int | None = None,
    last: int | None = None,
    database: str | None = _URL,
) -> None:
    """Write the chain, or a range of it, with the checkpoint that covers it."""
    with _log(database) as log:
        if output is None:
            log.export_to(sys.stdout.write, output_format, first_seq=first, last_seq=last)
            return
        part = output.with_name(output.name + ".part")
        with part.open("w", encoding="utf-8", newline="") as file:
            header = log.export_to(file.write, output_format, first_seq=first, last_seq=last)
        part.replace(output)
    covered = min(header.covered_to, header.last_seq)
    typer.echo(
        f"{output}: entries {header.first_seq}–{header.last_seq}; checkpoint covers up to {covered}"
    )


@app.command("verify-export")
def verify_export(file: Path, key: list[str] = _KEYS, as_json: bool = _JSON) -> None:
    """Check an export without any database. Exit: 0 good, 1 tampered, 2 can't tell."""
    check = check_export(file, _ring(key))
    if as_json:
        _print(
            {
                "verdict": check.verdict,
                "entries": check.entries,
                "covered": check.covered,
                "findings": [finding.to_dict() for finding in check.findings],
                "reason": check.reason,
            }
        )
    else:
        typer.echo(f"{check.verdict}: {check.entries} entries, {check.covered} under a checkpoint")
        for finding in check.findings:
            typer.echo(
                f"  {finding.problem} at {finding.seq}: "
                f"expected {finding.expected}, found {finding.found}"
            )
        if check.reason:
            typer.echo(f"  {check.reason}")
    raise typer.Exit(check.verdict.exit_code)


@app.command()
def prove(
    entry_id: str,
    output: Path | None = typer.Option(None, "--output", "-o"),
    database: str | None = _URL,
) -> None:
    """Print a proof that an entry is under the last checkpoint."""
    with _log(database) as log:
        proof = log.prove(entry_id)
    if output is None:
        _print(proof)
    else:
        output.write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n")


@app.command("check-proof")
def check_proof_file(file: Path, key: list[str] = _KEYS) -> None:
    """Check a proof offline, with the public key alone. Exit: 0 good, 1 tampered, 2 can't tell."""
    try:
        content = json.loads(_read(file))
    except ValueError as wrong:
        raise InvalidInputError(f"{file} is no JSON: {wrong}") from None
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file} is no proof")
    try:
        result = check_proof(content, _ring(key))
    except ChainTamperedError as tampered:
        typer.echo(f"tampered: {tampered.message}")
        raise typer.Exit(Verdict.TAMPERED.exit_code) from None
    except CheckpointError as untrusted:
        typer.echo(f"can't tell: {untrusted.diagnostics()}")
        raise typer.Exit(Verdict.UNKNOWN.exit_code) from None
    typer.echo(f"valid: {result.sentence}, signed for {result.checkpoint.origin}")


@app.command()
def checkpoint(
    watch: bool = typer.Option(
        False, help="Go on: empty the outbox, and sign when entries or seconds are due."
    ),
    new_incarnation: bool = typer.Option(
        False, help="After a legitimate restore: go on under a new name. Needs --reason."
    ),
    reason: str | None = None,
    database: str | None = _URL,
) -> None:
    """Sign the chain as it is now and publish that outside the database."""
    with _log(database) as log:
        if new_incarnation:
            if not reason:
                raise InvalidInputError("--new-incarnation needs a --reason; it goes into the log")
            _report(log.new_incarnation(reason, actor=_me()))
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
    """The signer process: until it is interrupted."""
    settings = get_settings()
    sequencer = Sequencer(log.sequence).start()
    try:
        signed_at, signed_size = 0.0, -1
        while True:
            size = log.head().seq
            due = (
                size - signed_size >= settings.audit_checkpoint_entries
                or time.monotonic() - signed_at >= settings.audit_checkpoint_seconds
            )
            if due and size != signed_size:
                publication = log.checkpoint()
                signed_at, signed_size = time.monotonic(), publication.size
                if publication.failed:
                    signed_size = -1  # again at the next interval
                _report(publication)
            time.sleep(min(0.2, settings.audit_checkpoint_seconds))
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        sequencer.stop()


@app.command()
def rollback(
    entry_hash: str,
    reason: str = typer.Option(..., help="Goes into the log."),
    database: str | None = _URL,
) -> None:
    """Supersede everything after the entry with this hash. Nothing is lost."""
    with _log(database) as log:
        found, removed = log.rollback_to_hash(entry_hash, actor=_me(), reason=reason)
    if not found:
        raise NotFoundError(f"no entry has the hash {entry_hash}")
    typer.echo(f"{removed} entries are superseded")


@app.command()
def archive(
    older_than_days: float = typer.Option(90.0, min=0.0),
    database: str | None = _URL,
) -> None:
    """Move whole old partitions to files that prove themselves."""
    with _log(database) as log:
        moved = log.archive(timedelta(days=older_than_days))
    for part in moved:
        typer.echo(f"{part.first_seq}–{part.last_seq} -> {part.file} sha256:{part.file_sha256}")
    if not moved:
        typer.echo("no full partition is that old")


@app.command()
def restore(first_seq: int, database: str | None = _URL) -> None:
    """Bring the archived partition that begins at this entry back."""
    with _log(database) as log:
        part = log.restore(first_seq)
    typer.echo(f"{part.first_seq}–{part.last_seq} are back")


@app.command()
def keys(
    rotate: bool = typer.Option(False, help="Make a new key; old notes stay valid."),
    as_json: bool = _JSON,
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
        _print(entries)
        return
    for entry in entries:
        since = "from its first signature on" if entry["from_size"] is None else (
            f"from size {entry['from_size']}"
        )  # fmt: skip
        typer.echo(f"{entry['key']}  {since}")


def _ring(keys: list[str]) -> KeyRing:
    """The keys that were given; without any, this machine's own ring."""
    return KeyRing.of(keys) if keys else KeyRing.load(ring_file(get_settings()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failed:
        raise InvalidInputError(f"{path} can't be read: {failed.strerror}") from None
