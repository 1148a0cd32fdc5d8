"""``secmon gate``: check files, approve, re-scan, and say what the policy is."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secmon_dagster import gate
from secmon_dagster.database import transaction
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.gate import approval, history
from secmon_dagster.gate.policy import FILE_CHECKS, load_policy, set_config
from secmon_dagster.gate.sarif import sarif
from secmon_dagster.gate.scanner import VERSION
from secmon_dagster.gate.scanner import load_policy as load_imports
from secmon_dagster.gate.upkeep import rescan as rescan_artifacts
from secmon_dagster.settings import get_settings

app = typer.Typer(no_args_is_help=True, help="Check files, approve, re-scan.")
policy_app = typer.Typer(no_args_is_help=True, help="What the gate admits, and with which scripts.")
app.add_typer(policy_app, name="policy")

ArtifactId = Annotated[str, typer.Argument(help="Id of an artifact.")]
ApprovalId = Annotated[str, typer.Argument(help="Id of an approval.")]


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


_EXIT = {gate.Outcome.ALLOW: 0, gate.Outcome.WARN: 1}


def actor() -> str:
    """Who acts: ``SECMON_USER``, else the login name."""
    return get_settings().user or getpass.getuser()


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    output: Annotated[Format, typer.Option("--format", "-f", help="text, json or sarif.")] = (
        Format.TEXT
    ),
    script: Annotated[str, typer.Option(help="The security script to run.")] = "content_check.py",
    allow: Annotated[
        list[str] | None, typer.Option(help="An import to admit, as package.module.Name.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Block classes nobody vetted.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds a file may take.")] = 60.0,
) -> None:
    """Check files without a database. Exit code: 0 allow, 1 warn, 2 block or no verdict."""
    _check_names(allow or [])
    config = {"allow": allow or [], "unknown_classes": "block" if strict else "warn"}
    results = [
        (
            str(path),
            gate.run_security_check(
                path.name, path.name, "file", script_name=script, path=path.absolute(),
                size=path.stat().st_size, config=config, timeout=timeout,
            ),
        )
        for path in _files(paths)
    ]  # fmt: skip
    if output is Format.SARIF:
        typer.echo(json.dumps(sarif(results), indent=2))
    elif output is Format.JSON:
        typer.echo(json.dumps([{"path": p, **r.to_dict()} for p, r in results], indent=2))
    else:
        for path, result in results:
            typer.echo(f"{result.action:8} {printable(path)}")
            for found in result.findings:
                where = f" ({found['where']})" if "where" in found else ""
                typer.echo(f"         {found.get('level', '')}: {found.get('message', '')}{where}")
            if not result.findings and result.stderr:
                typer.echo(f"         {printable(result.stderr.splitlines()[0])}")
    raise typer.Exit(max((_EXIT.get(result.outcome, 2) for _, result in results), default=0))


def _check_names(names: list[str]) -> None:
    for name in names:
        try:
            load_imports([name])
        except ValueError:
            raise InvalidInputError.of("allow", name, "package.module.Name") from None


def printable(text: str) -> str:
    """Text without control characters, so that a file's name can't drive the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
        elif path.is_file():
            yield path
        elif path.exists():
            raise InvalidInputError.of("path", str(path), "a regular file or a folder")
        else:
            raise NotFoundError(f"no file is at {str(path)!r}")


@app.command()
def register(
    path: Annotated[Path, typer.Argument(help="The file.")],
    name: Annotated[str, typer.Option(help="Its name; by default the file's.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Its type.")] = "model",
    script: Annotated[str | None, typer.Option(help="Script(s), comma-separated.")] = None,
    require_approval: Annotated[bool, typer.Option(help="Needs a second person.")] = False,
) -> None:
    """Store a file's hash and place as a sensitive artifact; prints its id."""
    made = gate.Gatekeeper().register(
        path, name or path.name, kind, actor(), monitoring_script=script,
        require_approval=require_approval,
    )  # fmt: skip
    typer.echo(made.id)


@app.command("history")
def show_history(
    artifact_id: Annotated[str | None, typer.Argument(help="Id of an artifact.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    output: Annotated[Format, typer.Option("--format", "-f", help="text or json.")] = Format.TEXT,
) -> None:
    """The checks, the newest first."""
    found = history.history(artifact_id=artifact_id, limit=limit)
    if output is Format.JSON:
        typer.echo(json.dumps([verdict.to_dict() for verdict in found], indent=2))
        return
    for verdict in found:
        result = verdict.result
        typer.echo(
            f"{result.executed_at:%Y-%m-%d %H:%M:%S}  {result.action:8} {result.exit_code:>4}  "
            f"{printable(result.artifact_id)}  {result.script_name}  {result.isolation}  "
            f"{result.execution_duration_ms:.1f} ms"
        )


@app.command()
def rescan(
    artifact_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids; by default all whose verdict is stale.")
    ] = None,
) -> None:
    """Check stored artifacts anew. Exit code 2 if one of them is blocked or can't be checked."""
    worst = 0
    for done in rescan_artifacts(gate.Gatekeeper(), artifact_ids or None, user_id=actor()):
        told = done.error if done.verdict is None else str(done.verdict.action)
        typer.echo(f"{printable(done.artifact_id)}  {told}")
        outcome = None if done.verdict is None else done.verdict.outcome
        worst = max(worst, 2 if outcome is None else _EXIT.get(outcome, 2))
    raise typer.Exit(2 if worst == 2 else 0)


@app.command()
def request(
    artifact_id: ArtifactId,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    days: Annotated[float, typer.Option(help="How long it is to hold.")] = 7.0,
) -> None:
    """Ask for a second person's approval; prints its id."""
    made = gate.Gatekeeper().request_approval(
        artifact_id, actor(), reason=reason, lifetime=timedelta(days=days)
    )
    typer.echo(made.id)


@app.command()
def approvals(
    state: Annotated[approval.State | None, typer.Option(help="Only this state.")] = None,
) -> None:
    """Approvals, the newest first."""
    with transaction() as connection:
        approval.expire(connection)
        for one in approval.listed(connection, state=state):
            typer.echo(
                f"{one.id}  {one.state:8}  {printable(one.artifact_id)}  {one.requester}  "
                f"until {one.expires_at:%Y-%m-%d %H:%M}  {printable(one.reason)}"
            )


@app.command()
def approve(approval_id: ApprovalId) -> None:
    """Approve, as somebody other than the requester and the uploader."""
    _decide(approval_id, approval.State.APPROVED)


@app.command()
def deny(approval_id: ApprovalId) -> None:
    """Deny."""
    _decide(approval_id, approval.State.DENIED)


@app.command()
def revoke(approval_id: ApprovalId) -> None:
    """Take an approval, or the request for one, back."""
    _decide(approval_id, approval.State.REVOKED)


def _decide(approval_id: str, state: approval.State) -> None:
    made = gate.Gatekeeper().decide(approval_id, state, actor())
    typer.echo(f"{made.id}  {made.state}")


@policy_app.command("show")
def show_policy() -> None:
    """The policy in force, as JSON."""
    with transaction() as connection:
        policy = load_policy(connection)
    typer.echo(
        json.dumps(
            {
                "scanner_version": VERSION,
                "scripts": list(FILE_CHECKS),
                "scripts_by_type": {k: list(v) for k, v in policy.scripts_by_type.items()},
                "timeout_seconds": policy.timeout,
                "max_output": policy.max_output,
                "retention_days": policy.retention_days,
                "isolation_here": str(gate.strongest_isolation()),
                **policy.config,
            },
            indent=2,
        )
    )


@policy_app.command("allow")
def allow_import(
    name: Annotated[str, typer.Argument(help="package.module.Name, as a finding prints it.")],
) -> None:
    """Admit an import nobody vetted yet. Verdicts made before no longer hold."""
    _check_names([name])
    with transaction(user_id=actor()) as connection:
        allowed = [*load_policy(connection).config["allow"], name]
        set_config(connection, "allow", json.dumps(sorted(set(allowed))), actor())
    typer.echo(f"{name} is admitted")


@policy_app.command("set")
def set_policy(
    key: Annotated[str, typer.Argument(help="A key of monitoring_config.")],
    value: Annotated[str, typer.Argument(help="Its value.")],
) -> None:
    """Change a value of the policy, if the policy can be read with it."""
    with transaction(user_id=actor()) as connection:
        set_config(connection, key, value, actor())
    typer.echo(f"{key} = {value}")
