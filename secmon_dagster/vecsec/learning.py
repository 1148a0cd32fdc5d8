"""The learning loop: labels become patterns, patterns a candidate, a better candidate the model.

Fifty labels of a new family lift its AUC from .64 to .98 (measured), so this is the product. It is
also the way in for poison: each source is capped, contradicted labels are not learned, a fifth of
the labels is kept for the test, and a candidate that does worse than the model in use on prompts
neither has seen is rejected, and what made it worse is taken back. Someone else than its author
approves it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec import patterns
from secmon_dagster.vecsec.agents import EvilAgent, LegitimateAgent
from secmon_dagster.vecsec.blind_test import auc, blind_families, is_hard, recall_at
from secmon_dagster.vecsec.corpus import TrainingRow, base_corpus
from secmon_dagster.vecsec.detector import SecAgent
from secmon_dagster.vecsec.events import record
from secmon_dagster.vecsec.model import DetectorModel, pattern_id
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.training import train
from secmon_dagster.vecsec.updating import update
from secmon_dagster.vecsec.versions import Connection, Enqueue, in_use, model_file, version_file

MAX_PER_SOURCE = 500
_BLIND = 400
_SUSPECTS = 10
# What a candidate may lose. Of blind AUC, 50 + 50 honest labels of three public families cost up to
# .008, a hundred flipped labels .09 to .18 (measured).
_AUC_SLACK, _BLIND_AUC_SLACK, _FALSE_ALARM_SLACK = 0.005, 0.0125, 0.02


@dataclass(frozen=True)
class Candidate:
    """What learning made.

    Attributes:
        version: SHA-256 of the model file.
        accepted: whether it may be approved.
        reason: why not.
        learned: new patterns in it.
        refused: sources whose new labels made the detector worse, and were taken back.
        metrics: AUC, recall and false alarms of it and of the model in use, on the same prompts.
    """

    version: str
    accepted: bool
    reason: str
    learned: int
    refused: tuple[str, ...]
    metrics: dict[str, float]


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


@dataclass(frozen=True)
class _Attempt:
    model: DetectorModel
    metrics: dict[str, float]
    objection: str


def learn(actor: str, *, enqueue: Enqueue, seed: int = 0) -> Candidate:
    """Turn feedback into patterns, teach them to the model in use, and hold the two against each
    other.

    The candidate is the model in use, updated; it is trained anew only where a pattern that the
    model knows has been retired, since what was learned can't be unlearned by steps.

    Raises:
        InvalidInputError: there is no new feedback, or all of it is kept for the test.
    """
    current = _Remembering(in_use())
    with transaction() as connection:
        fresh = _take_feedback(connection)
        if not fresh:
            raise InvalidInputError("there is no new feedback to learn from")
        patterns.store(connection, fresh)
        attempt = _attempt(connection, current, seed)
        if attempt is None:
            raise InvalidInputError(
                f"all {len(fresh)} new labels are kept for the test", hint="Give some more."
            )
        refused: tuple[str, ...] = ()
        if attempt.objection:
            refused = _blamed(current, fresh, seed)
            patterns.retire(connection, [row for row in fresh if row.source in refused])
            attempt = _attempt(connection, current, seed) or attempt
        kept = [row for row in fresh if row.source not in refused]
        version = _kept(attempt.model)
        record(connection, "pattern_learned", count=max(1, len(kept)), actor=actor)
        embedded = patterns.embed(connection, attempt.model.embedder)
        if embedded:
            record(connection, "embedding", count=embedded, actor=actor)
        accepted = not attempt.objection
        state = "candidate" if accepted else "rejected"
        connection.execute(
            """INSERT INTO secmon.vecsec_versions
                 (version, path, state, reason, metrics, created_by)
               VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT (version) DO UPDATE SET metrics = excluded.metrics""",
            [version, str(version_file(version)), state, attempt.objection,
             Jsonb(attempt.metrics), actor],
        )  # fmt: skip
        record(connection, "model_update", type_=state, actor=actor, details={"version": version})
        enqueue(
            connection,
            action=f"vecsec.{state}",
            actor=actor,
            resource_type="vecsec_model",
            resource_id=version,
            data={"learned": len(kept), "refused": list(refused), **attempt.metrics},
            level="info" if accepted and not refused else "warn",
        )
    return Candidate(version, accepted, attempt.objection, len(kept), refused, attempt.metrics)


def _attempt(connection: Connection, current: _Remembering, seed: int) -> _Attempt | None:
    """A candidate from all active patterns, and what speaks against it; None where they teach
    nothing that the model in use doesn't know."""
    rows = patterns.active(connection)
    taught = [row for row in rows if not _kept_for_the_test(row.text)]
    known = frozenset(current.model.patterns.ids)
    new = [row for row in taught if pattern_id(row.text) not in known]
    if patterns.any_retired(connection, current.model.patterns.ids):
        model = train([*base_corpus(), *taught])
    elif new:
        model = update(current.model, new, seed=seed)
    else:
        return None
    return _judged(model, current, rows, seed)


def _judged(
    model: DetectorModel, current: _Remembering, rows: Sequence[TrainingRow], seed: int
) -> _Attempt:
    metrics = _compare(SecAgent(model), current, rows, seed)
    worse = [
        what
        for what, loss, slack in (
            ("AUC", metrics["current_auc"] - metrics["auc"], _AUC_SLACK),
            ("blind AUC", metrics["current_blind_auc"] - metrics["blind_auc"], _BLIND_AUC_SLACK),
            (
                "false alarms on hard negatives",
                metrics["hard_false_alarms"] - metrics["current_hard_false_alarms"],
                _FALSE_ALARM_SLACK,
            ),
        )
        if loss > slack
    ]
    objection = f"it does worse than the model in use: {', '.join(worse)}" if worse else ""
    return _Attempt(model, metrics, objection)


def _blamed(current: _Remembering, fresh: Sequence[TrainingRow], seed: int) -> tuple[str, ...]:
    """The sources whose labels alone make the detector worse; all where none stands out."""
    by_source = Counter(row.source for row in fresh)
    blamed = []
    for source, _ in by_source.most_common(_SUSPECTS):
        rows = [row for row in fresh if row.source == source]
        taught = [row for row in rows if not _kept_for_the_test(row.text)]
        if (
            taught
            and _judged(update(current.model, taught, seed=seed), current, rows, seed).objection
        ):
            blamed.append(source)
    return tuple(sorted(blamed or by_source))


def _kept(model: DetectorModel) -> str:
    """Write a candidate's file and return its version."""
    fresh = model_file().with_name("candidate.npz")
    version = model.save(fresh)
    fresh.replace(version_file(version))
    return version


class _Remembering:
    """A detector that scores a prompt once: one is held against several candidates."""

    def __init__(self, agent: SecAgent) -> None:
        self.model, self.flag = agent.model, agent.flag
        self.score = cache(agent.score)


def _compare(
    candidate: SecAgent, current: _Remembering, rows: Sequence[TrainingRow], seed: int
) -> dict[str, float]:
    """Both models on the same blind prompts, and on those and the labels kept for the test."""
    evil, honest = blind_families(candidate.model.families | current.model.families)
    blind = [
        *EvilAgent(seed=seed, known=evil).prompts(_BLIND // 2),
        *LegitimateAgent(seed=seed, known=honest).prompts(_BLIND // 2),
    ]
    both = blind + [row for row in rows if _kept_for_the_test(row.text)]
    labels = np.array([row.label for row in both], dtype=np.int8)
    hard = np.array([is_hard(row) for row in both])
    found = {}
    for prefix, agent in (("", _Remembering(candidate)), ("current_", current)):
        scores = np.array([agent.score(row.text) for row in both])
        found[f"{prefix}auc"] = auc(labels, scores)
        found[f"{prefix}recall"] = recall_at(labels, scores)[0]
        found[f"{prefix}blind_auc"] = auc(labels[: len(blind)], scores[: len(blind)])
        alarms = scores[hard] > agent.flag
        found[f"{prefix}hard_false_alarms"] = float(alarms.mean()) if len(alarms) else 0.0
    return found
