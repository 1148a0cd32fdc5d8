"""Learned patterns in PostgreSQL: stored, searched (pgvector where there is one), taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.corpus import TrainingRow
from secmon_dagster.vecsec.embedding import EMBEDDING_SIZE
from secmon_dagster.vecsec.features import Floats
from secmon_dagster.vecsec.model import pattern_id
from secmon_dagster.vecsec.rules import AttackType

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class StoredPattern:
    """A pattern and how like the question it is (cosine)."""

    pattern_id: str
    text: str
    label: int
    similarity: float


def has_pgvector(connection: Connection) -> bool:
    """Whether patterns are searched by an index rather than by numpy."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM information_schema.columns
            WHERE table_schema = 'secmon' AND table_name = 'threat_patterns'
              AND column_name = 'vector')"""
    ).fetchone()
    return bool(row and row[0])


def store(
    connection: Connection, rows: Sequence[TrainingRow], vectors: Floats | None, space: str | None
) -> int:
    """Keep patterns; one already known keeps its label and source. Returns how many are new."""
    new = 0
    for place, row in enumerate(rows):
        vector = None if vectors is None else [float(x) for x in vectors[place]]
        done = connection.execute(
            """INSERT INTO secmon.threat_patterns
                 (pattern_id, text, label, family, attack_type, source, embedding, space)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            [pattern_id(row.text), row.text, row.label, row.family, row.attack_type, row.source,
             vector, space],
        )  # fmt: skip
        new += done.rowcount
    return new


def active(connection: Connection) -> list[TrainingRow]:
    """Every pattern that has not been retired, as training rows."""
    found = connection.execute(
        """SELECT text, label, family, attack_type, source FROM secmon.threat_patterns
            WHERE retired_at IS NULL ORDER BY learned_at, pattern_id"""
    ).fetchall()
    return [TrainingRow(t, label, family, AttackType(a), s) for t, label, family, a, s in found]


def retire_source(connection: Connection, source: str) -> int:
    """Take back everything one source taught; returns how many patterns."""
    return connection.execute(
        """UPDATE secmon.threat_patterns SET retired_at = clock_timestamp()
            WHERE source = %s AND retired_at IS NULL""",
        [source],
    ).rowcount


def nearest(
    connection: Connection, vector: Floats, space: str, *, limit: int = 3
) -> list[StoredPattern]:
    """The patterns of one embedding space most like ``vector``, most like first.

    Raises:
        InvalidInputError: the vector's size is not the stored ones'.
    """
    if vector.shape != (EMBEDDING_SIZE,):
        raise InvalidInputError.of("vector", vector.shape, f"shape ({EMBEDDING_SIZE},)")
    if has_pgvector(connection):
        literal = "[" + ",".join(f"{x:.6g}" for x in vector) + "]"
        rows = connection.execute(
            """SELECT pattern_id, text, label, 1 - (vector <=> %(v)s::vector) AS similarity
                 FROM secmon.threat_patterns WHERE space = %(space)s AND retired_at IS NULL
                ORDER BY vector <=> %(v)s::vector LIMIT %(limit)s""",
            {"v": literal, "space": space, "limit": limit},
        ).fetchall()
        return [StoredPattern(i, t, label, float(s)) for i, t, label, s in rows]
    rows = connection.execute(
        """SELECT pattern_id, text, label, embedding FROM secmon.threat_patterns
            WHERE space = %s AND retired_at IS NULL AND embedding IS NOT NULL""",
        [space],
    ).fetchall()
    if not rows:
        return []
    likeness = np.array([row[3] for row in rows], dtype=np.float32) @ vector
    best = np.argsort(-likeness)[:limit]
    return [
        StoredPattern(rows[i][0], rows[i][1], rows[i][2], float(likeness[i]))
        for i in map(int, best)
    ]
