"""Learned patterns in PostgreSQL: stored, searched (pgvector where there is one), taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.corpus import TrainingRow
from secmon_dagster.vecsec.embedding import EMBEDDING_SIZE, HashedLSA
from secmon_dagster.vecsec.features import Floats
from secmon_dagster.vecsec.model import pattern_id
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.training import design_of

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
        """SELECT EXISTS (SELECT FROM pg_attribute
            WHERE attrelid = 'secmon.threat_patterns'::regclass AND attname = 'vector'
              AND NOT attisdropped)"""
    ).fetchone()
    return bool(row and row[0])


def store(connection: Connection, rows: Sequence[TrainingRow]) -> None:
    """Keep patterns; one already known keeps its label and source, one taken back comes again."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO secmon.threat_patterns
                 (pattern_id, text, label, family, attack_type, source)
               VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (pattern_id) DO UPDATE
                 SET label = excluded.label, source = excluded.source, retired_at = NULL
               WHERE threat_patterns.retired_at IS NOT NULL""",
            [
                (pattern_id(row.text), row.text, row.label, row.family, row.attack_type, row.source)
                for row in rows
            ],
        )


def embed(connection: Connection, embedder: HashedLSA) -> int:
    """Give every active pattern a vector in the embedder's space; returns how many had none."""
    rows = connection.execute(
        """SELECT pattern_id, text FROM secmon.threat_patterns
            WHERE retired_at IS NULL AND space IS DISTINCT FROM %s""",
        [embedder.space],
    ).fetchall()
    if not rows or embedder.size != EMBEDDING_SIZE:
        return 0
    vectors = embedder.embed_all(design_of([text for _, text in rows]).grams)
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE secmon.threat_patterns SET embedding = %s, space = %s WHERE pattern_id = %s",
            [
                (vector.tolist(), embedder.space, each)
                for (each, _), vector in zip(rows, vectors, strict=True)
            ],
        )
    return len(rows)


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


def retire(connection: Connection, rows: Sequence[TrainingRow]) -> None:
    """Take single patterns back, each from the source that taught it."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """UPDATE secmon.threat_patterns SET retired_at = clock_timestamp()
                WHERE pattern_id = %s AND source = %s AND retired_at IS NULL""",
            [(pattern_id(row.text), row.source) for row in rows],
        )


def any_retired(connection: Connection, ids: Sequence[str]) -> bool:
    """Whether one of these patterns has been taken back."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM secmon.threat_patterns
            WHERE retired_at IS NOT NULL AND pattern_id = ANY(%s))""",
        [list(ids)],
    ).fetchone()
    return bool(row and row[0])


def like(connection: Connection, embedder: HashedLSA, text: str) -> list[StoredPattern]:
    """The patterns most like ``text``, those not yet in the embedder's space too.

    Raises:
        InvalidInputError: the text is longer than 4,194,304 characters.
    """
    embed(connection, embedder)
    vector = embedder.embed_all(design_of([text]).grams)[0]
    return nearest(connection, vector, embedder.space)


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
