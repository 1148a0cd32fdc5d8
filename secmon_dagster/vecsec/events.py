"""What VecSec did, as rows that metrics count and reports read. Of prompts only hashes are kept."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.vecsec.detector import Analysis, SecAgent
from secmon_dagster.vecsec.inference import InferenceClient, second_opinion


def text_hash(text: str) -> str:
    """SHA-256 of a prompt, broken surrogates replaced."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def record(
    connection: psycopg.Connection[Any], kind: str, *, type_: str = "none", **columns: Any
) -> None:
    """Add one event in the transaction open on ``connection``."""
    row = {"verdict": None, "count": 1, "score": None, "similarity": None, "duration": None,
           "text_sha256": None, "actor": None, "run_id": None, "details": {}} | columns  # fmt: skip
    connection.execute(
        """INSERT INTO secmon.vecsec_events
             (kind, type, verdict, count, score, similarity, duration, text_sha256, actor, run_id,
              details)
           VALUES (%(kind)s, %(type)s, %(verdict)s, %(count)s, %(score)s, %(similarity)s,
                   %(duration)s, %(text_sha256)s, %(actor)s, %(run_id)s, %(details)s)""",
        row | {"kind": kind, "type": type_, "details": Jsonb(row["details"])},
    )


def analyze_and_record(
    agent: SecAgent,
    text: str,
    *,
    actor: str,
    run_id: str | None = None,
    client: InferenceClient | None = None,
) -> Analysis:
    """A verdict, and its event; a failure is an event too, and raised.

    Args:
        client: asked for a second opinion on prompts that are flagged.

    Raises:
        DatabaseError: the event can't be stored; then there is no verdict either.
    """
    started = time.perf_counter()
    try:
        found = second_opinion(agent, client, text)
    except Exception:
        with transaction() as connection:
            record(connection, "analysis_error", actor=actor, run_id=run_id)
        raise
    with transaction() as connection:
        record(
            connection,
            "analysis",
            type_=found.attack_type,
            verdict=found.verdict,
            score=found.score,
            similarity=found.similarity,
            duration=time.perf_counter() - started,
            text_sha256=text_hash(text),
            actor=actor,
            run_id=run_id,
            details={
                "reasons": list(found.reasons),
                "decided_by": found.decided_by,
                "version": agent.model.version,
            },
        )
    return found
