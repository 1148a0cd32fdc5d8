"""``secmon audit verify|export|verify-export|prove|check-proof``: what convinces others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import typer

from secmon_dagster.audit.export_check import check_export
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.proof import check_proof
from secmon_dagster.cli.audit_options import (
    JSON,
    KEYS,
    URL,
    open_log,
    print_json,
    read_text,
    ring_of,
    told_by_exit_code,
)
from secmon_dagster.errors import InvalidInputError


def verify(
    first: int | None = typer.Option(None, help="First seq."),
    last: int | None = typer.Option(None, help="Last seq."),
    since: datetime | None = None,
    until: datetime | None = None,
    since_checkpoint: bool = typer.Option(False, help="Only what is newer than the checkpoint."),
    checkpoint_file: Path | None = typer.Option(
        None, "--checkpoint", help="A signed checkpoint that you kept; the log must agree with it."
    ),
    key: list[str] = KEYS,
    workers: int | None = typer.Option(None, help="Processes; unset means one a core."),
    as_json: bool = JSON,
    database: str | None = URL,
) -> None:
    """Verify rows, links, head, roots and signatures. Exit: 0 good, 1 tampered, 2 can't tell."""
    with told_by_exit_code(), open_log(database) as log:
        trust = log.trust()
        kept = [] if checkpoint_file is None else [read_text(checkpoint_file)]
        result = log.verification(
            since and since.astimezone(),
            until and until.astimezone(),
            first_seq=first,
            last_seq=last,
            since_checkpoint=since_checkpoint,
            trust=replace(
                trust, ring=KeyRing.of(key) if key else trust.ring, notes=[*trust.notes, *kept]
            ),
            workers=workers,
        )
    if as_json:
        print_json(result.to_dict())
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


def export(
    output: Path | None = typer.Option(None, "--output", "-o", help="Unset: standard output."),
    output_format: str = typer.Option("json", "--format", help="json, ndjson or csv."),
    first: int | None = None,
    last: int | None = None,
    database: str | None = URL,
) -> None:
    """Write the chain, or a range of it, with the checkpoint that covers it."""
    with open_log(database) as log:
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


def verify_export(file: Path, key: list[str] = KEYS, as_json: bool = JSON) -> None:
    """Check an export without any database. Exit: 0 good, 1 tampered, 2 can't tell."""
    with told_by_exit_code():
        check = check_export(file, ring_of(key))
    if as_json:
        print_json(
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


def prove(
    entry_id: str,
    output: Path | None = typer.Option(None, "--output", "-o"),
    database: str | None = URL,
) -> None:
    """Print a proof that an entry is under the last checkpoint."""
    with open_log(database) as log:
        proof = log.prove(entry_id)
    if output is None:
        print_json(proof)
    else:
        output.write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n")


def check_proof_file(file: Path, key: list[str] = KEYS) -> None:
    """Check a proof offline, with the public key alone. Exit: 0 good, 1 tampered, 2 can't tell."""
    with told_by_exit_code():
        try:
            content = json.loads(read_text(file))
        except ValueError as wrong:
            raise InvalidInputError(f"{file} is no JSON: {wrong}") from None
        if not isinstance(content, dict):
            raise InvalidInputError(f"{file} is no proof")
        result = check_proof(content, ring_of(key))
    typer.echo(f"valid: {result.sentence}, signed for {result.checkpoint.origin}")
