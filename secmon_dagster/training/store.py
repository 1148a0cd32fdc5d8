"""Model files and the rows that describe them: a row never without its file."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import IO, Any

import orjson
import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.errors import ConflictError, NotFoundError, SecmonError
from secmon_dagster.settings import get_settings

LIBRARIES = ("scikit-learn", "numpy", "pandas", "skops")


@dataclass(frozen=True)
class StoredModel:
    """One row of ``models``."""

    model_id: str
    version: str
    artifact_id: str
    estimator: str
    schema: dict[str, str]  # column -> pandas dtype
    metrics: dict[str, float]
    run_id: str


def models_directory() -> Path:
    """Where trained files wait for the gate."""
    return get_settings().home / "artifacts" / "models"


def released_directory() -> Path:
    """Where released files are; what is deployed is read from here."""
    return get_settings().home / "released"


def write_model(pipeline: Any, model_id: str, version: str) -> Path:
    """Store a fitted pipeline with skops, whole or not at all.

    Raises:
        SecmonError: the disk is full or the folder can't be written.
    """
    import skops.io

    target = models_directory() / model_id / f"{version}.skops"
    with whole_or_nothing(target) as file:
        file.write(skops.io.dumps(pipeline))
    return target


def load_model(file: IO[bytes]) -> Any:
    """Load a pipeline that :func:`write_model` stored; call it with what the gate released.

    Raises:
        SecmonError: the file names a type that is neither scikit-learn's nor numpy's.
    """
    import skops.io

    content = file.read()
    unknown = [
        name
        for name in skops.io.get_untrusted_types(data=content)
        if not name.startswith(("sklearn.", "numpy."))
    ]
    if unknown:
        raise SecmonError(
            f"model file names types that aren't scikit-learn's: {', '.join(unknown)}"
        )
    return skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is complete and flushed, or not at all.

    Raises:
        SecmonError: the disk is full or the folder can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as failed:
        if failed.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(_existing(target)).free // 2**20
            raise SecmonError(
                # all in one sentence: a step's failure shows no hint
                f"No space to store {target}: {failed.strerror}; {free} MB are free on its disk. "
                "Free some, or point SECMON_HOME to a larger disk; nothing was stored"
            ) from None
        raise SecmonError(f"{target} can't be written: {failed.strerror}") from None


def _existing(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def library_versions() -> dict[str, str]:
    """What the file was written with."""
    return {"python": sys.version.split()[0]} | {name: installed(name) for name in LIBRARIES}


def record_model(connection: psycopg.Connection[Any], model: StoredModel) -> None:
    """Insert the ``models`` row; again for the same version (a retried step) replaces it, unless
    that version has been released.

    Raises:
        ConflictError: the version has been released.
    """
    cursor = connection.execute(
        """
        INSERT INTO models (model_id, version, artifact_id, estimator, schema, metrics,
                            library_versions, run_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (model_id, version) DO UPDATE
           SET artifact_id = excluded.artifact_id, estimator = excluded.estimator,
               schema = excluded.schema, metrics = excluded.metrics,
               library_versions = excluded.library_versions, run_id = excluded.run_id
         WHERE models.released_at IS NULL
        """,
        (
            model.model_id,
            model.version,
            model.artifact_id,
            model.estimator,
            Jsonb(model.schema),
            Jsonb(model.metrics),
            Jsonb(library_versions()),
            model.run_id,
        ),
    )
    if cursor.rowcount == 0:
        raise ConflictError(
            f"model {model.model_id} version {model.version} has been released and stays as it is"
        )


def record_metrics(
    connection: psycopg.Connection[Any], model_id: str, version: str, metrics: dict[str, float]
) -> None:
    """Add held-out metrics to a model's row."""
    connection.execute(
        "UPDATE models SET metrics = metrics || %s WHERE model_id = %s AND version = %s",
        (Jsonb(metrics), model_id, version),
    )


def publish(connection: psycopg.Connection[Any], file: IO[bytes], model: StoredModel) -> Path:
    """Copy what the gate opened to where released models live, and mark the version released.

    The row is marked in the caller's transaction, after the file is in place; call
    :func:`mark_current` when that transaction is committed.

    Raises:
        NotFoundError: no such model version.
    """
    target = released_directory() / model.model_id / f"{model.version}.skops"
    with whole_or_nothing(target) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
    released = connection.execute(
        "UPDATE models SET released_at = coalesce(released_at, clock_timestamp()) "
        "WHERE model_id = %s AND version = %s",
        (model.model_id, model.version),
    )
    if released.rowcount == 0:
        raise NotFoundError(f"no model {model.model_id} version {model.version}")
    return target


def mark_current(model: StoredModel, file: Path) -> None:
    """Point ``current.json`` beside ``file`` to it; call it once the release is committed."""
    with whole_or_nothing(file.parent / "current.json") as current:
        current.write(
            orjson.dumps(
                {
                    "model_id": model.model_id,
                    "version": model.version,
                    "artifact_id": model.artifact_id,
                    "file": file.name,
                },
                option=orjson.OPT_INDENT_2,
            )
        )


def current_version(model_id: str) -> str:
    """The version released last.

    Raises:
        NotFoundError: no version of the model has been released.
    """
    with transaction() as connection:
        row = connection.execute(
            "SELECT version FROM models WHERE model_id = %s AND released_at IS NOT NULL "
            "ORDER BY released_at DESC LIMIT 1",
            (model_id,),
        ).fetchone()
    if row is None:
        raise NotFoundError(f"no version of model {model_id!r} has been released")
    return str(row[0])
