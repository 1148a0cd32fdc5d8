"""The learning loop: labels become patterns, patterns a candidate, a better candidate the model.

Fifty labels of a new family lift its AUC from .64 to .98 (measured), so this is the product. It is
also the way in for poison: each source is capped, contradicted labels are not learned, a fifth of
the labels is kept for the test, and a candidate that does worse than the model in use on prompts
neither has seen is rejected. Someone else than its author approves it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.errors import ConflictError, InvalidInputError, NotFoundError
from secmon_dagster.settings import get_settings
from secmon_dagster.vecsec import patterns
from secmon_dagster.vecsec.agents import EvilAgent, LegitimateAgent
from secmon_dagster.vecsec.blind_test import blind_families, evaluate
from secmon_dagster.vecsec.corpus import TrainingRow, base_corpus
from secmon_dagster.vecsec.detector import SecAgent
from secmon_dagster.vecsec.events import record
from secmon_dagster.vecsec.model import pattern_id
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.training import design_of, train

MODEL_ID = "vecsec-detector"
MAX_PER_SOURCE = 500
_BLIND = 400
_TOLERANCE = 0.005  # of AUC: less than the bootstrap interval of a blind test of 400

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
class Candidate:
    """What learning made.

    Attributes:
        version: SHA-256 of the model file.
        accepted: whether it may be approved.
        reason: why, or why not.
        learned: new patterns in it.
        metrics: AUC and recall of it and of the model in use, on the same prompts.
    """

    version: str
    accepted: bool
    reason: str
    learned: int
    metrics: dict[str, float]


def model_file() -> Path:
    """The file of the detector in use."""
    return get_settings().home / "vecsec" / "detector.npz"


def in_use() -> SecAgent:
    """The detector in use; the first call of all trains one on the base corpora."""
    path = model_file()
    if not path.exists():
        train(base_corpus()).save(path)
    return SecAgent.load(path)


def give_feedback(rows: Sequence[TrainingRow]) -> int:
    """Store labelled prompts for the next round of learning; returns how many."""
    with transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO secmon.vecsec_feedback (text, label, family, attack_type, source)
               VALUES (%s, %s, %s, %s, %s)""",
            [(r.text, r.label, r.family, r.attack_type, r.source) for r in rows],
        )
    return len(rows)


def _kept_for_the_test(text: str) -> bool:
    """A fixed fifth of all prompts is never trained on."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[0] % 5 == 0


def _take_feedback(connection: Connection) -> list[TrainingRow]:
    """Open feedback that may be learned; every row taken gets its outcome."""
    rows = connection.execute(
        """SELECT id, text, label, family, attack_type, source FROM secmon.vecsec_feedback
            WHERE outcome IS NULL ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 20000"""
    ).fetchall()
    known: dict[str, int] = {row.text: row.label for row in patterns.active(connection)}
    known |= {row.text: row.label for row in base_corpus()}
    per_source = Counter(row.source for row in patterns.active(connection))
    labels: dict[str, set[int]] = {}
    for _, text, label, *_ in rows:
        labels.setdefault(text, set()).add(label)
    taken = []
    for number, text, label, family, attack_type, source in rows:
        if len(labels[text]) > 1 or known.get(text, label) != label:
            outcome = "contradicted"
        elif per_source[source] >= MAX_PER_SOURCE:
            outcome = "capped"
        else:
            outcome = "learned"
            per_source[source] += 1
            taken.append(TrainingRow(text, label, family, AttackType(attack_type), source))
        connection.execute(
            "UPDATE secmon.vecsec_feedback SET outcome = %s WHERE id = %s", [outcome, number]
        )
    return taken


def learn(actor: str, *, enqueue: Enqueue, seed: int = 0) -> Candidate:
    """Turn feedback into patterns, train a candidate, and hold it against the model in use.

    Raises:
        InvalidInputError: there is no new feedback.
    """
    current = in_use()
    with transaction() as connection:
        fresh = _take_feedback(connection)
        if not fresh:
            raise InvalidInputError("there is no new feedback to learn from")
        new = patterns.store(connection, fresh, None, None)
        rows = patterns.active(connection)
        record(connection, "pattern_learned", count=max(1, new), actor=actor)
        trained = train([*base_corpus(), *(r for r in rows if not _kept_for_the_test(r.text))])
        path = get_settings().home / "vecsec" / "candidate.npz"
        version = trained.save(path)
        path.rename(path.with_name(f"{version}.npz"))
        agent = SecAgent(trained)
        vectors = trained.embedder.embed_all(design_of([row.text for row in rows]).grams)
        for row, vector in zip(rows, vectors, strict=True):
            connection.execute(
                """UPDATE secmon.threat_patterns SET embedding = %s, space = %s
                    WHERE pattern_id = %s""",
                [[float(x) for x in vector], version, pattern_id(row.text)],
            )
        record(connection, "embedding", count=len(rows), actor=actor)
        metrics = _compare(agent, current, rows, seed)
        better = metrics["auc"] >= metrics["current_auc"] - _TOLERANCE
        no_worse = metrics["blind_auc"] >= metrics["current_blind_auc"] - 2 * _TOLERANCE
        accepted = better and no_worse
        reason = "" if accepted else "it does worse than the model in use on prompts unseen by both"
        state = "candidate" if accepted else "rejected"
        connection.execute(
            """INSERT INTO secmon.vecsec_versions
                 (version, path, state, reason, metrics, created_by)
               VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT (version) DO UPDATE SET metrics = excluded.metrics""",
            [version, str(path.with_name(f"{version}.npz")), state, reason, Jsonb(metrics), actor],
        )
        record(connection, "model_update", type_=state, actor=actor, details={"version": version})
        enqueue(
            connection,
            action=f"vecsec.{state}",
            actor=actor,
            resource_type="vecsec_model",
            resource_id=version,
            data={"learned": new, **metrics},
            level="info" if accepted else "warn",
        )
    return Candidate(version, accepted, reason, new, metrics)


def _compare(
    candidate: SecAgent, current: SecAgent, rows: Sequence[TrainingRow], seed: int
) -> dict[str, float]:
    """Both models on the same blind prompts, and on those and the labels kept for the test."""
    evil, honest = blind_families(candidate.model.families | current.model.families)
    blind = [
        *EvilAgent(seed=seed, known=evil).prompts(_BLIND // 2),
        *LegitimateAgent(seed=seed, known=honest).prompts(_BLIND // 2),
    ]
    both = blind + [row for row in rows if _kept_for_the_test(row.text)]
    found = {}
    for prefix, agent in (("", candidate), ("current_", current)):
        found[f"{prefix}blind_auc"] = evaluate(agent, blind, threshold=agent.flag).auc.value
        result = evaluate(agent, both, threshold=agent.flag)
        found[f"{prefix}auc"], found[f"{prefix}recall"] = result.auc.value, result.recall.value
    return found


def approve(
    version: str,
    approver: str,
    *,
    enqueue: Enqueue,
    gate: Callable[[Path], None],
) -> None:
    """Put a candidate into use.

    Args:
        gate: refuses by raising; asked about the very file before it is used.

    Raises:
        NotFoundError: no such version.
        ConflictError: it was rejected, its file has changed, or its author approves it.
    """
    with transaction() as connection:
        row = connection.execute(
            "SELECT path, state, created_by, metrics FROM secmon.vecsec_versions "
            "WHERE version = %s FOR UPDATE",
            [version],
        ).fetchone()
        if row is None:
            raise NotFoundError(f"there is no detector version {version}")
        path, state, author, metrics = row
        if state == "rejected":
            raise ConflictError(f"version {version[:12]} was rejected by the blind test")
        if author == approver:
            raise ConflictError(
                f"{approver} made version {version[:12]}", hint="Somebody else has to approve it."
            )
        gate(Path(path))
        _put_into_use(version, Path(path))
        connection.execute(
            """UPDATE secmon.vecsec_versions SET state = 'approved', approved_by = %s,
                 activated_at = clock_timestamp() WHERE version = %s""",
            [approver, version],
        )
        _register(connection, version, Path(path), author, metrics)
        record(connection, "model_update", type_="activated", actor=approver)
        enqueue(
            connection,
            action="vecsec.activated",
            actor=approver,
            resource_type="vecsec_model",
            resource_id=version,
        )


def _put_into_use(version: str, path: Path) -> None:
    """Replace the detector's file at once, with bytes that are the version's."""
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != version:
        raise ConflictError(f"the file of version {version[:12]} is missing or has been changed")
    target = model_file()
    fresh = target.with_suffix(".new")
    shutil.copyfile(path, fresh)
    fresh.replace(target)


def _register(
    connection: Connection, version: str, path: Path, author: str, metrics: dict[str, float]
) -> None:
    """The version as an artifact and as a model of the platform's registry."""
    connection.execute(
        """INSERT INTO secmon.artifacts (id, name, type, path, size_bytes, sha256, uploaded_by)
           VALUES (%s, %s, 'model', %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING""",
        [f"{MODEL_ID}-{version[:16]}", f"{MODEL_ID}.npz", str(path), path.stat().st_size, version,
         author],
    )  # fmt: skip
    connection.execute(
        """INSERT INTO secmon.models (model_id, version, artifact_id, estimator, metrics,
             released_at) VALUES (%s, %s, %s, 'secmon_dagster.vecsec.SecAgent', %s, now())
           ON CONFLICT (model_id, version) DO UPDATE SET released_at = now()""",
        [MODEL_ID, version[:16], f"{MODEL_ID}-{version[:16]}", Jsonb(metrics)],
    )


def roll_back(actor: str, *, enqueue: Enqueue) -> str:
    """Put the version that was in use before back; returns it.

    Raises:
        NotFoundError: there was none before.
    """
    with transaction() as connection:
        rows = connection.execute(
            """SELECT version, path FROM secmon.vecsec_versions
                WHERE state = 'approved' AND activated_at IS NOT NULL
                ORDER BY activated_at DESC LIMIT 2 FOR UPDATE"""
        ).fetchall()
        if len(rows) < 2:
            raise NotFoundError("no earlier detector version has been in use")
        (left, _), (version, path) = rows
        _put_into_use(version, Path(path))
        # The version left is no longer one to go back to.
        connection.execute(
            "UPDATE secmon.vecsec_versions SET activated_at = NULL WHERE version = %s", [left]
        )
        connection.execute(
            "UPDATE secmon.models SET released_at = now() WHERE model_id = %s AND version = %s",
            [MODEL_ID, version[:16]],
        )
        record(connection, "model_update", type_="rolled_back", actor=actor)
        enqueue(
            connection,
            action="vecsec.rolled_back",
            actor=actor,
            resource_type="vecsec_model",
            resource_id=version,
            data={"left": left},
            level="warn",
        )
    return str(version)
