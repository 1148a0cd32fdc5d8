"""Dagster's instance: where it keeps things, and making it ready."""

from __future__ import annotations

import os
from pathlib import Path

from dagster import DagsterInstance

from secmon_dagster import database
from secmon_dagster.settings import PROJECT_ROOT, get_settings


def configuration_file() -> Path:
    """``dagster.yaml``: in a checkout beside the package, in a wheel inside it."""
    beside = PROJECT_ROOT / "dagster.yaml"
    return beside if beside.exists() else Path(__file__).resolve().parent.parent / "_dagster.yaml"


def environment() -> dict[str, str]:
    """The variables that point Dagster's own commands here.

    Raises:
        DatabaseUnavailableError: the embedded server is meant and isn't running.
    """
    home = get_settings().home.resolve()
    variables = {
        "SECMON_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "SECMON_DAGSTER_STORAGE_URL": database.database_url(),
        "SECMON_DAGSTER_STATE": str(home / "dagster" / "state"),
        "SECMON_COMPUTE_LOGS": str(home / "compute_logs"),
    }
    configured = get_settings().database_url
    if configured is not None:
        variables["SECMON_DATABASE_URL"] = configured.get_secret_value()
    return variables


def prepare() -> dict[str, str]:
    """Bring both schemas up to date and make the folders; idempotent.

    Returns:
        :func:`environment`, which is also set in this process.

    Raises:
        DatabaseUnavailableError: nothing answers.
        SchemaError: the schema is newer than this code, or a migration failed.
    """
    variables = environment()
    for name in ("DAGSTER_HOME", "SECMON_DAGSTER_STATE", "SECMON_COMPUTE_LOGS"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True, mode=0o700)
    _link(Path(variables["DAGSTER_HOME"]) / "dagster.yaml", configuration_file())
    database.migrate()
    os.environ.update(variables)
    DagsterInstance.get().dispose()  # opening makes Dagster's tables
    return variables


def _link(link: Path, target: Path) -> None:
    """A link, so that an edited ``dagster.yaml`` counts at once."""
    if not (link.is_symlink() and link.readlink() == target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
