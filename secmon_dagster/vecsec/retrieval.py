"""Row-level security for retrieval: what SQL may not return, ``retrieve`` can't.

Two doors. A policy check on subject, resource, columns and action comes first and names what it
refuses; behind it PostgreSQL's own policies on ``guarded_documents`` decide row by row, whatever
the query says. Neither looks at the wording: that is the detector's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from psycopg.types.json import Jsonb

from secmon_dagster.database import Role, transaction
from secmon_dagster.errors import InvalidInputError, PermissionDeniedError
from secmon_dagster.vecsec.embedding import EMBEDDING_SIZE
from secmon_dagster.vecsec.events import record
from secmon_dagster.vecsec.features import Floats, character_hashes, word_hashes
from secmon_dagster.vecsec.views import canonical_view

COLUMNS = ("title", "content", "attributes")
_TEXT = 20_000


@dataclass(frozen=True)
class Reader:
    """On whose behalf documents are read.

    Attributes:
        subject: who asks.
        tenant: whose documents; empty for someone unknown.
        clearance: 0 to 9.
        roles: any of which a document may name.
    """

    subject: str
    tenant: str
    clearance: int = 0
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RetrievalPolicy:
    """What may be asked for at all.

    Attributes:
        columns: columns by role; a reader sees those of all their roles.
        actions: allowed acts.
        resource: the one resource there is.
    """

    columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    actions: frozenset[str] = frozenset({"read"})
    resource: str = "guarded_documents"
    default_columns: frozenset[str] = frozenset({"title", "content"})


@dataclass(frozen=True)
class Document:
    """One document, with the columns that were asked for, and its likeness to the query."""

    document_id: str
    columns: dict[str, Any]
    similarity: float


def reader_of(subject: str) -> Reader:
    """What the platform knows of ``subject``; without a tenant where it knows nothing.

    A caller never says this of itself.
    """
    with transaction() as connection:
        row = connection.execute(
            "SELECT tenant, clearance, roles FROM secmon.document_readers WHERE subject = %s",
            [subject],
        ).fetchone()
    return (
        Reader(subject, "") if row is None else Reader(subject, row[0], row[1], frozenset(row[2]))
    )


class RetrievalDeniedError(PermissionDeniedError):
    """The policy refuses; ``context['category']`` says on what ground."""

    problem_type = "retrieval-denied"


def document_vector(text: str) -> Floats:
    """A vector that doesn't depend on any trained model: signed feature hashing to 64 numbers.

    Weinberger et al. 2009; the sign keeps collisions from adding up.
    """
    view = canonical_view(text[:_TEXT]).text
    hashes = np.concatenate([character_hashes(view), word_hashes(view)])
    mixed = hashes * np.uint64(0x9E3779B97F4A7C15)
    places = (mixed >> np.uint64(58)).astype(np.intp)
    signs = 1.0 - 2.0 * ((mixed >> np.uint64(57)) & np.uint64(1)).astype(np.float64)
    vector = np.bincount(places, weights=signs, minlength=EMBEDDING_SIZE)
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / (norm or 1.0), dtype=np.float32)


def _refusal(
    reader: Reader, policy: RetrievalPolicy, resource: str, columns: tuple[str, ...], action: str
) -> str | None:
    """The category the request violates, or None."""
    allowed = set(policy.default_columns)
    for role in reader.roles:
        allowed |= policy.columns.get(role, frozenset())
    if not reader.subject or not reader.tenant:
        return "unknown_principal"
    if not 0 <= reader.clearance <= 9:
        return "clearance"
    if any("," in role or not role for role in reader.roles):
        return "role"
    if resource != policy.resource:
        return "resource"
    if action not in policy.actions:
        return "action"
    if not set(columns) <= allowed:
        return "columns"
    return None


def add_document(
    title: str, content: str, *, tenant: str, clearance: int = 0, roles: frozenset[str],
    attributes: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Store a document; returns its id."""
    vector = [float(x) for x in document_vector(f"{title}\n{content}")]
    with transaction() as connection:
        row = connection.execute(
            """INSERT INTO secmon.guarded_documents
                 (tenant, clearance, roles, title, content, attributes, embedding)
               VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING document_id""",
            [tenant, clearance, sorted(roles), title, content, Jsonb(attributes or {}), vector],
        ).fetchone()
    assert row is not None
    return str(row[0])


def retrieve(
    query: str,
    reader: Reader,
    *,
    policy: RetrievalPolicy | None = None,
    resource: str = "guarded_documents",
    columns: tuple[str, ...] = ("title", "content"),
    action: str = "read",
    limit: int = 5,
) -> list[Document]:
    """The documents most like ``query`` among those ``reader`` may read, most like first.

    Raises:
        RetrievalDeniedError: the policy refuses; the violation is recorded.
        InvalidInputError: an unknown column, or a limit outside 1 to 100.
    """
    if not 1 <= limit <= 100:
        raise InvalidInputError.of("limit", limit, "1 to 100")
    if not columns or set(columns) - set(COLUMNS):
        raise InvalidInputError.of("columns", list(columns), ", ".join(COLUMNS))
    category = _refusal(reader, policy or RetrievalPolicy(), resource, columns, action)
    if category is not None:
        with transaction() as connection:
            record(connection, "rlsa_violation", type_=category, actor=reader.subject or "unknown")
        raise RetrievalDeniedError(
            f"{reader.subject or 'an unknown principal'} may not {action} "
            f"{', '.join(columns)} of {resource}: {category}",
            category=category,
        )
    with transaction(Role.READER, user_id=reader.subject) as connection:
        connection.execute(
            """SELECT set_config('secmon.tenant', %s, true),
                      set_config('secmon.clearance', %s, true),
                      set_config('secmon.roles', %s, true)""",
            [reader.tenant, str(reader.clearance), ",".join(sorted(reader.roles))],
        )
        # Cosines, both vectors being of length one; over every row the policies let through.
        rows = connection.execute(
            """SELECT document_id, title, content, attributes,
                      (SELECT sum(d * q) FROM unnest(embedding, %(query)s::real[]) AS pair (d, q))
                 FROM secmon.guarded_documents
                ORDER BY 5 DESC, created_at DESC, document_id LIMIT %(limit)s""",
            {"query": document_vector(query).tolist(), "limit": limit},
        ).fetchall()
    return [
        Document(row[0], {name: row[1 + COLUMNS.index(name)] for name in columns}, float(row[4]))
        for row in rows
    ]
