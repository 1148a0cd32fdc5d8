"""Baselines in the database: one row a feature, written once per model version."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.drift.outcomes import OutcomeBaseline
from secmon_dagster.drift.profile import BaselineProfile, FeatureProfile
from secmon_dagster.drift.statistics.psi import DEFINITION
from secmon_dagster.errors import ConflictError, InvalidInputError, NotFoundError


def save_baseline(
    model_id: str, version: str, profile: BaselineProfile, *, replace: bool = False
) -> str:
    """Store a baseline and return its content hash. Storing the same one again changes nothing.

    Raises:
        ConflictError: if this model version has another baseline and ``replace`` is False.
    """
    with transaction() as connection:
        # Two profilers of one version must not interleave their features.
        connection.execute("LOCK TABLE drift_baselines IN SHARE ROW EXCLUSIVE MODE")
        stored = baseline_hash(connection, model_id, version)
        if stored == profile.content_hash:
            return stored
        if stored is not None and not replace:
            raise ConflictError(
                f"{model_id} {version} has another baseline (hash {stored[:12]}…)",
                hint="give the model a new version, or replace the baseline on purpose",
            )
        connection.execute(
            "DELETE FROM drift_baselines WHERE model_id = %s AND model_version = %s",
            (model_id, version),
        )
        _insert(connection, model_id, version, profile)
    return profile.content_hash


def _insert(
    connection: psycopg.Connection[Any], model_id: str, version: str, profile: BaselineProfile
) -> None:
    rows = [
        (model_id, version, role, each.feature, position, profile.definition,
         Jsonb(each.summary()), each.packed_values(), profile.content_hash)
        for role, features in (("input", profile.features), ("output", profile.outputs))
        for position, each in enumerate(features.values())
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO drift_baselines (model_id, model_version, role, feature, position,
                                            definition, summary, ordered, baseline_hash)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            rows,
        )


def baseline_hash(connection: psycopg.Connection[Any], model_id: str, version: str) -> str | None:
    """The content hash of a version's baseline; None if it has none."""
    row = connection.execute(
        """SELECT baseline_hash FROM drift_baselines
            WHERE model_id = %s AND model_version = %s LIMIT 1""",
        (model_id, version),
    ).fetchone()
    return None if row is None else str(row[0])


def has_baseline(model_id: str, version: str) -> bool:
    """Whether a version was profiled; cheap, unlike loading it."""
    with transaction() as connection:
        return baseline_hash(connection, model_id, version) is not None


def load_baseline(model_id: str, version: str) -> BaselineProfile:
    """A version's baseline.

    Raises:
        NotFoundError: if it has none; names the versions that have one.
        InvalidInputError: if it was made by another definition, or is not what its hash says.
    """
    with transaction() as connection:
        rows = connection.execute(
            """SELECT role, definition, summary, ordered, baseline_hash FROM drift_baselines
                WHERE model_id = %s AND model_version = %s ORDER BY role, position""",
            (model_id, version),
            binary=True,  # bytea as text would be twice as long, and decoded digit by digit
        ).fetchall()
        if not rows:
            raise _absent(connection, model_id, version)
    if rows[0][1] != DEFINITION:
        raise InvalidInputError.of(f"baseline of {model_id} {version}", rows[0][1], DEFINITION)
    restored = [
        (role, FeatureProfile.restore(summary, packed)) for role, _, summary, packed, _ in rows
    ]
    profile = BaselineProfile(
        {each.feature: each for role, each in restored if role == "input"},
        {each.feature: each for role, each in restored if role == "output"},
    )
    if profile.content_hash != rows[0][4]:
        raise InvalidInputError.of(
            f"baseline of {model_id} {version}", "contents of another hash", rows[0][4]
        )
    return profile


def save_outcomes(model_id: str, version: str, outcomes: OutcomeBaseline) -> None:
    """Store what the outcomes of a version's reference were; replaces what was there."""
    with transaction() as connection:
        connection.execute(
            """INSERT INTO drift_outcome_baselines (model_id, model_version, body)
               VALUES (%s, %s, %s)
               ON CONFLICT (model_id, model_version)
               DO UPDATE SET body = excluded.body, created_at = now()""",
            (model_id, version, Jsonb(outcomes.to_json())),
        )


def load_outcomes(model_id: str, version: str) -> OutcomeBaseline | None:
    """What the outcomes of a version's reference were; None if they were not summed up."""
    with transaction() as connection:
        row = connection.execute(
            """SELECT body FROM drift_outcome_baselines
                WHERE model_id = %s AND model_version = %s""",
            (model_id, version),
        ).fetchone()
    return None if row is None else OutcomeBaseline.from_json(row[0])


def _absent(connection: psycopg.Connection[Any], model_id: str, version: str) -> NotFoundError:
    others = connection.execute(
        """SELECT DISTINCT model_version FROM drift_baselines
            WHERE model_id = %s ORDER BY 1 LIMIT 20""",
        (model_id,),
    ).fetchall()
    known = ", ".join(row[0] for row in others)
    return NotFoundError(
        f"model {model_id} has no drift baseline for version {version}"
        + (f"; it has one for {known}" if known else ""),
        hint="profile the reference first: secmon drift profile",
    )
