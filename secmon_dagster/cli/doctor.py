"""``secmon doctor``: what this machine can enforce, and what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster import database
from secmon_dagster.database import Role, embedded
from secmon_dagster.errors import SecmonError
from secmon_dagster.settings import get_settings

app = typer.Typer(
    help="What this machine can enforce, what is missing.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

MIN_FREE_BYTES = 1 << 30


class State(StrEnum):
    """How a finding matters."""

    GOOD = "good"
    WEAKER = "weaker"  # works, with less than the best guarantee
    MISSING = "missing"  # something doesn't work


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@app.callback(invoke_without_command=True)
def doctor() -> None:
    """Say what this machine can enforce and what is missing. Exit code 1 if something is."""
    findings = [*_python(), *_database(), *_limits(), *_sandbox(), *_programs(), *_disk()]
    table = Table("subject", "", box=None, pad_edge=False)
    for name in ("found", "what to do"):
        table.add_column(name, overflow="fold")  # a path is of no use cut off
    colour = {State.GOOD: "green", State.WEAKER: "yellow", State.MISSING: "red"}
    for finding in findings:
        table.add_row(
            finding.subject,
            f"[{colour[finding.state]}]{finding.state}[/]",
            finding.found,
            finding.remedy,
        )
    console = Console(highlight=False)
    console.print(table, soft_wrap=not console.is_terminal)
    if any(finding.state is State.MISSING for finding in findings):
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", State.GOOD, f"{version} on {sys.platform}")


def _database() -> Iterator[Finding]:
    own = get_settings().database_url is not None
    name = "PostgreSQL (your own)" if own else "PostgreSQL (embedded)"
    if not own and embedded.running_pid() is None:
        yield Finding(name, State.GOOD, "installed, not running", "`secmon db start` starts it")
        return
    try:
        with database.connect(Role.ADMIN) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version'), rolsuper, "
                "EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') "
                "FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row is not None
        pending = database.pending_migrations()
    except SecmonError as error:
        yield Finding(name, State.MISSING, error.message, error.hint or "")
        return
    yield Finding(name, State.GOOD, f"version {row[0]} answers")
    if pending:
        yield Finding(
            "Schema", State.MISSING, f"{len(pending)} migrations pending", "`secmon db migrate`"
        )
    if not row[1]:
        yield Finding(
            "Audit guards",
            State.WEAKER,
            "the URL's user is no superuser: no event triggers",
            "let a superuser run `secmon db migrate` once",
        )
    if not row[2]:
        yield Finding(
            "pgvector",
            State.WEAKER,
            "not available: patterns are compared in memory",
            "install the server's pgvector package",
        )


def _limits() -> Iterator[Finding]:
    from secmon_dagster.limits import probe

    found = probe()
    if found.hard_limits:
        yield Finding("Limits", State.GOOD, f"hard, by {found.backend}")
    else:
        yield Finding(
            "Limits",
            State.WEAKER,
            f"sampled: {'; '.join(found.reasons)}",
            "run as root, or under `systemd-run --user --scope -p Delegate=yes`",
        )
    yield Finding(
        "Controllers",
        State.GOOD if found.writable_controllers else State.WEAKER,
        f"cgroup v{' and v'.join(map(str, found.cgroup_versions)) or '-'}: "
        + (", ".join(found.writable_controllers) or "none writable"),
    )
    yield Finding(
        "User namespaces",
        State.GOOD if found.user_namespaces else State.WEAKER,
        "usable" if found.user_namespaces else "refused",
        "" if found.user_namespaces else "sysctl kernel.unprivileged_userns_clone=1",
    )
    yield Finding(
        "Network denial",
        State.GOOD if found.network_namespaces else State.MISSING,
        "usable" if found.network_namespaces else "refused: layers without network won't run",
        "" if found.network_namespaces else "allow user namespaces, or run as root",
    )
    yield Finding(
        "Network evidence",
        State.GOOD if found.seccomp_notify else State.WEAKER,
        "seccomp notifications" if found.seccomp_notify else "denied attempts go unseen",
    )


def _sandbox() -> Iterator[Finding]:
    from secmon_dagster.gate import Isolation, strongest_isolation

    level = strongest_isolation()
    best = level is max(Isolation)
    yield Finding(
        "Script sandbox",
        State.GOOD if best else State.WEAKER,
        level.name.lower(),
        "" if best else "install bubblewrap",
    )


def _programs() -> Iterator[Finding]:
    for program, use in (("node", "security scripts in JavaScript"), ("promtool", "rule tests")):
        path = shutil.which(program)
        yield Finding(
            program,
            State.GOOD if path else State.WEAKER,
            path or f"not found: no {use}",
            "" if path else f"install {program}",
        )


def _disk() -> Iterator[Finding]:
    home = get_settings().home.resolve()
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "Home folder",
            State.MISSING,
            f"{existing} is not this user's to write",
            "set SECMON_HOME to a folder that is",
        )
    free = shutil.disk_usage(existing).free
    state = State.GOOD if free >= MIN_FREE_BYTES else State.MISSING
    yield Finding(
        "Disk",
        state,
        f"{free / 2**30:.1f} GiB free at {home}",
        "" if state is State.GOOD else "free some space, or set SECMON_HOME",
    )
