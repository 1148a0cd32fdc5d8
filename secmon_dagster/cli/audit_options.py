"""What the audit commands share: options, the log they open, how they print."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from secmon_dagster.audit.keys import KeyRing, ring_file
from secmon_dagster.audit.logger import HashChainAuditLogger
from secmon_dagster.audit.verification import Verdict
from secmon_dagster.errors import ChainTamperedError, InvalidInputError, SecmonError
from secmon_dagster.settings import get_settings

URL = typer.Option(None, "--database", help="Another database's URL.")
JSON = typer.Option(False, "--json", help="Machine-readable output.")
KEYS = typer.Option([], "--key", help="Public key of the log (NAME+ID+BASE64); may be repeated.")


def me() -> str:
    """Who acts: SECMON_USER or the login name."""
    return get_settings().user or getpass.getuser()


def open_log(url: str | None) -> HashChainAuditLogger:
    """The log at this URL; None means the configured one."""
    return HashChainAuditLogger(url)


@contextmanager
def told_by_exit_code() -> Iterator[None]:
    """For commands whose exit code is a verdict: 1 is kept for tampering, 2 is "could not tell"."""
    try:
        yield
    except ChainTamperedError as tampered:
        typer.echo(f"tampered: {tampered.message}")
        raise typer.Exit(Verdict.TAMPERED.exit_code) from None
    except SecmonError as unknown:
        typer.echo(f"can't tell: {unknown.diagnostics()}", err=True)
        raise typer.Exit(Verdict.UNKNOWN.exit_code) from None


def print_json(value: Any) -> None:
    """Machine-readable output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def ring_of(keys: list[str]) -> KeyRing:
    """The keys that were given; without any, this machine's own ring."""
    return KeyRing.of(keys) if keys else KeyRing.load(ring_file(get_settings()))


def read_text(path: Path) -> str:
    """A file's text, or a clear error."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failed:
        raise InvalidInputError(f"{path} can't be read: {failed.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path} is not UTF-8 text") from None
