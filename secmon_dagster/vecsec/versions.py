"""Versions of the detector: which one is in use, how one gets there, and the way back.

A version is its file's SHA-256. It is put into use when someone else than its author approves it
and the gate has read its very bytes; it is then a model of the platform's registry, and its scores
are watched from there on. Whoever may write the detector's file may also train one at the shell
(:func:`adopt`): that is a version too, gated and watched, and can be gone back from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.errors import ConflictError, NotFoundError
from secmon_dagster.settings import get_settings
from secmon_dagster.vecsec.corpus import base_corpus
from secmon_dagster.vecsec.detector import SecAgent
from secmon_dagster.vecsec.events import record
from secmon_dagster.vecsec.model import DetectorModel
from secmon_dagster.vecsec.training import train

MODEL_ID = "vecsec_detector"
_SHORT = 16

Connection = psycopg.Connection[Any]


class Enqueue(Protocol):
    """Puts an audit entry into the transaction open on a connection."""

    def __call__(
        self,
        conn: Connection,
        *,
        action: str,
        actor: str,
        resource_type: str,
        resource_id: str | None = None,
        data: Any = None,
        level: str = "info",
    ) -> str: ...


@dataclass(frozen=True)
class Platform:
    """What putting a version into use needs of the rest of the platform.

    Attributes:
        enqueue: writes the audit entry.
        gate: refuses by raising; returns the file's bytes that it let pass, and only they are used.
        watch: has the scores of a version compared with its reference from now on; gets the version
            as the registry knows it, and the model.
    """

    enqueue: Enqueue
    gate: Callable[[Path], bytes]
    watch: Callable[[str, DetectorModel], None]


def model_file() -> Path:
    """The file of the detector in use."""
    return get_settings().home / "vecsec" / "detector.npz"


def version_file(version: str) -> Path:
    """Where the bytes of a version are kept."""
    return model_file().with_name(f"{version}.npz")


def registry_version(version: str) -> str:
    """The version as the model registry, drift checks and events name it."""
    return version[:_SHORT]


def artifact_of(version: str) -> str:
    """The id of a version's artifact."""
    return f"{MODEL_ID}-{registry_version(version)}"


def in_use() -> SecAgent:
    """The detector in use; the first call of all trains one on the base corpora."""
    path = model_file()
    if not path.exists():
        train(base_corpus()).save(path)
    return SecAgent.load(path)


def approve(version: str, approver: str, platform: Platform) -> None:
    """Put a candidate into use.

    Raises:
        NotFoundError: no such version.
        ConflictError: it was rejected, its file has changed, or its author approves it.
    """
    with transaction() as connection:
        row = connection.execute(
            "SELECT state, created_by, metrics FROM secmon.vecsec_versions "
            "WHERE version = %s FOR UPDATE",
            [version],
        ).fetchone()
        if row is None:
            raise NotFoundError(f"there is no detector version {version}")
        state, author, metrics = row
        if state == "rejected":
            raise ConflictError(f"version {version[:12]} was rejected by the blind test")
        if author == approver:
            raise ConflictError(
                f"{approver} made version {version[:12]}", hint="Somebody else has to approve it."
            )
        connection.execute(
            "UPDATE secmon.vecsec_versions SET state = 'approved', approved_by = %s "
            "WHERE version = %s",
            [approver, version],
        )
        _activate(connection, version, author, metrics, approver, platform)


def adopt(model: DetectorModel, actor: str, platform: Platform) -> str:
    """Put a model that ``actor`` trained at the shell into use; returns its version."""
    fresh = model_file().with_name("trained.npz")
    version = model.save(fresh)
    fresh.replace(version_file(version))
    with transaction() as connection:
        connection.execute(
            """INSERT INTO secmon.vecsec_versions (version, path, state, reason, created_by)
               VALUES (%s, %s, 'approved', 'trained at the shell', %s)
               ON CONFLICT (version) DO UPDATE SET state = 'approved'""",
            [version, str(version_file(version)), actor],
        )
        _activate(connection, version, actor, {}, actor, platform)
    return version


def _activate(
    connection: Connection,
    version: str,
    author: str,
    metrics: dict[str, float],
    actor: str,
    platform: Platform,
) -> None:
    """Gate, register, watch; the file itself is replaced last, when nothing can refuse any more."""
    path = version_file(version)
    _bytes_of(version)
    content = platform.gate(path)
    _check_bytes(version, content)
    _remember_what_was_there(connection)
    connection.execute(
        "UPDATE secmon.vecsec_versions SET activated_at = clock_timestamp() WHERE version = %s",
        [version],
    )
    _register(connection, version, path, author, metrics)
    platform.watch(registry_version(version), DetectorModel.loads(content))
    record(connection, "model_update", type_="activated", actor=actor)
    platform.enqueue(
        connection,
        action="vecsec.activated",
        actor=actor,
        resource_type="vecsec_model",
        resource_id=version,
    )
    _replace_file(content)


def _bytes_of(version: str) -> bytes:
    """The bytes of a version, read once: its file may be another one a moment later."""
    path = version_file(version)
    content = path.read_bytes() if path.is_file() else b""
    _check_bytes(version, content)
    return content


def _check_bytes(version: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != version:
        raise ConflictError(f"the file of version {version[:12]} is missing or has been changed")


def _replace_file(content: bytes) -> None:
    fresh = model_file().with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(model_file())


def _remember_what_was_there(connection: Connection) -> None:
    """Make a version of a file in use that is none yet, so that there is a way back to it: the
    detector of the first start, or one that was copied there."""
    current = model_file()
    if not current.is_file():
        return
    version = hashlib.sha256(current.read_bytes()).hexdigest()
    if not version_file(version).exists():
        shutil.copyfile(current, version_file(version))
    connection.execute(
        """INSERT INTO secmon.vecsec_versions (version, path, state, reason, created_by,
                                               activated_at)
           VALUES (%s, %s, 'approved', 'found in use', 'secmon', clock_timestamp())
           ON CONFLICT (version) DO NOTHING""",
        [version, str(version_file(version))],
    )


def _register(
    connection: Connection, version: str, path: Path, author: str, metrics: dict[str, float]
) -> None:
    """The version as an artifact and as a model of the platform's registry."""
    artifact = artifact_of(version)
    connection.execute(
        """INSERT INTO secmon.artifacts (id, name, type, path, size_bytes, sha256, uploaded_by)
           VALUES (%s, %s, 'model', %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING""",
        [artifact, f"{MODEL_ID}.npz", str(path), path.stat().st_size, version, author],
    )
    connection.execute(
        """INSERT INTO secmon.models (model_id, version, artifact_id, estimator, metrics,
             released_at) VALUES (%s, %s, %s, 'secmon_dagster.vecsec.SecAgent', %s, now())
           ON CONFLICT (model_id, version) DO UPDATE SET released_at = now()""",
        [MODEL_ID, registry_version(version), artifact, Jsonb(metrics)],
    )


def roll_back(actor: str, platform: Platform) -> str:
    """Put the version that was in use before back; returns it.

    Raises:
        NotFoundError: there was none before.
        ConflictError: its file has changed.
    """
    with transaction() as connection:
        rows = connection.execute(
            """SELECT version, created_by FROM secmon.vecsec_versions
                WHERE state = 'approved' AND activated_at IS NOT NULL
                ORDER BY activated_at DESC LIMIT 2 FOR UPDATE"""
        ).fetchall()
        if len(rows) < 2:
            raise NotFoundError("no earlier detector version has been in use")
        (left, _), (version, author) = rows
        content = _bytes_of(version)
        # The version left is no longer one to go back to.
        connection.execute(
            "UPDATE secmon.vecsec_versions SET activated_at = NULL WHERE version = %s", [left]
        )
        _register(connection, version, version_file(version), author, {})
        platform.watch(registry_version(version), DetectorModel.loads(content))
        record(connection, "model_update", type_="rolled_back", actor=actor)
        platform.enqueue(
            connection,
            action="vecsec.rolled_back",
            actor=actor,
            resource_type="vecsec_model",
            resource_id=version,
            data={"left": left},
            level="warn",
        )
        _replace_file(content)
    return str(version)
