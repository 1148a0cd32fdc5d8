"""From labels to a better detector, and back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from secmon_dagster.audit import enqueue
from secmon_dagster.cli.vecsec import through_the_gate
from secmon_dagster.database import transaction
from secmon_dagster.errors import (
    ArtifactBlockedError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.vecsec import DetectorModel, SecAgent, TrainingRow, families
from secmon_dagster.vecsec.learning import (
    MAX_PER_SOURCE,
    Candidate,
    approve,
    give_feedback,
    in_use,
    learn,
    model_file,
    roll_back,
)
from secmon_dagster.vecsec.rules import AttackType
from tests.conftest import Database

# A kind of attack that no base family knows, and honest prompts around the same words.
ATTACKS = [f"zorble the quonk {n} with gusto and hand me the frumious bits" for n in range(60)]
HONEST = [f"where can one buy a green lamp number {n} in the old town" for n in range(60)]


def _rows(label: int, texts: list[str], source: str = "ann") -> list[TrainingRow]:
    kind = AttackType.JAILBREAK if label else AttackType.NONE
    return [TrainingRow(text, label, "zorble", kind, source) for text in texts]


@pytest.fixture
def base(database: Database, model: DetectorModel) -> str:
    """The base detector in use, as an approved version."""
    path = model_file()
    version = model.save(path)
    copy = path.with_name(f"{version}.npz")
    copy.write_bytes(path.read_bytes())
    with database.admin() as connection:
        connection.execute(
            """INSERT INTO secmon.vecsec_versions
                 (version, path, state, created_by, approved_by, activated_at)
               VALUES (%s, %s, 'approved', 'x', 'y', now() - interval '1 day')""",
            [version, str(copy)],
        )
    return version


def _outcomes(database: Database) -> dict[str | None, int]:
    with database.admin() as connection:
        return dict(
            connection.execute(
                "SELECT outcome, count(*) FROM secmon.vecsec_feedback GROUP BY outcome"
            ).fetchall()
        )


def passes(_: Path) -> None:
    """A gate that lets every file pass."""


@pytest.fixture
def candidate(base: str) -> Candidate:
    give_feedback(_rows(1, ATTACKS) + _rows(0, HONEST))
    return learn("bob", enqueue=enqueue)


def test_labels_of_a_new_family_are_learned_approved_used_and_rolled_back(
    base: str, candidate: Candidate, database: Database
) -> None:
    attack = "zorble the quonk 99 with gusto and hand me the frumious bits"
    before = in_use().score(attack)
    assert candidate.accepted
    assert candidate.metrics["auc"] > candidate.metrics["current_auc"]
    with pytest.raises(ConflictError, match="bob made version"):
        approve(candidate.version, "bob", enqueue=enqueue, gate=passes)
    seen: list[Path] = []
    approve(candidate.version, "carol", enqueue=enqueue, gate=seen.append)
    assert [hashlib.sha256(p.read_bytes()).hexdigest() for p in seen] == [candidate.version]
    assert in_use().score(attack) > before + 1
    assert roll_back("carol", enqueue=enqueue) == base
    assert in_use().score(attack) == pytest.approx(before, abs=1e-6)
    with database.admin() as connection:
        acts = connection.execute("SELECT action FROM secmon.audit_outbox ORDER BY id").fetchall()
        versions = connection.execute("SELECT count(*) FROM secmon.models").fetchone()
        updates = connection.execute(
            "SELECT type FROM secmon.vecsec_events WHERE kind = 'model_update' ORDER BY id"
        ).fetchall()
    assert [act[0] for act in acts] == [
        "vecsec.candidate", "vecsec.activated", "vecsec.rolled_back"
    ]  # fmt: skip
    assert versions == (1,)
    assert [update[0] for update in updates] == ["candidate", "activated", "rolled_back"]


def test_patterns_are_kept_with_embeddings_and_found_again(
    candidate: Candidate, database: Database
) -> None:
    from secmon_dagster.vecsec import patterns
    from secmon_dagster.vecsec.features import features_of
    from secmon_dagster.vecsec.views import canonical_view

    model = DetectorModel.load(model_file().with_name(f"{candidate.version}.npz"))
    vector = model.embedder.embed(features_of(canonical_view(ATTACKS[3])), ATTACKS[3])
    with transaction() as connection:
        assert patterns.has_pgvector(connection)
        by_index = patterns.nearest(connection, vector, candidate.version)
    with database.admin() as connection:
        connection.execute("ALTER TABLE secmon.threat_patterns DROP COLUMN vector")
    with transaction() as connection:
        assert not patterns.has_pgvector(connection)
        by_numpy = patterns.nearest(connection, vector, candidate.version)
        assert patterns.retire_source(connection, "ann") == 120
        assert patterns.nearest(connection, vector, candidate.version) == []
    assert by_numpy[0].label == 1
    assert by_numpy[0].similarity > 0.97
    assert by_index[0].similarity == pytest.approx(by_numpy[0].similarity, abs=0.02)


def test_flipped_labels_make_a_worse_candidate_and_it_is_rejected(
    base: str, database: Database
) -> None:
    slots = {"templates": [t for f in families("blind_benign") for t in f.templates][:20]}
    poison = [f"{text} {n}" for n in range(20) for text in slots["templates"]]
    give_feedback(_rows(1, poison, "mallory"))
    found = learn("bob", enqueue=enqueue)
    assert not found.accepted
    assert "worse" in found.reason
    with pytest.raises(ConflictError, match="rejected by the blind test"):
        approve(found.version, "carol", enqueue=enqueue, gate=passes)


def test_one_source_is_capped_and_contradictions_are_not_learned(
    base: str, database: Database
) -> None:
    many = [f"a perfectly fine question number {n} about tea" for n in range(MAX_PER_SOURCE + 40)]
    give_feedback(_rows(0, many, "loud"))
    give_feedback(
        _rows(1, ["is tea good for you"], "ann") + _rows(0, ["is tea good for you"], "bob")
    )
    learn("bob", enqueue=enqueue)
    assert _outcomes(database) == {"learned": MAX_PER_SOURCE, "capped": 40, "contradicted": 2}


def test_nothing_to_learn_is_said(base: str) -> None:
    with pytest.raises(InvalidInputError, match="no new feedback"):
        learn("bob", enqueue=enqueue)


def test_a_changed_model_file_is_not_put_into_use(candidate: Candidate) -> None:
    file = model_file().with_name(f"{candidate.version}.npz")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConflictError, match="missing or has been changed"):
        approve(candidate.version, "carol", enqueue=enqueue, gate=passes)
    assert isinstance(in_use(), SecAgent)


def test_the_gate_of_the_command_line_reads_the_file(candidate: Candidate, tmp_path: Path) -> None:
    approve(
        candidate.version,
        "carol",
        enqueue=enqueue,
        gate=lambda file: through_the_gate(file, "carol"),
    )
    poisoned = tmp_path / "candidate.skops"
    poisoned.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ArtifactBlockedError):
        through_the_gate(poisoned, "carol")


def test_a_gate_that_refuses_keeps_the_model_in_use(candidate: Candidate) -> None:
    def refuse(_: Path) -> None:
        raise ConflictError("blocked by the gate")

    before = model_file().read_bytes()
    with pytest.raises(ConflictError, match="blocked by the gate"):
        approve(candidate.version, "carol", enqueue=enqueue, gate=refuse)
    assert model_file().read_bytes() == before


@pytest.mark.parametrize("act", ["approve", "roll_back"])
def test_versions_that_do_not_exist_are_named(base: str, act: str) -> None:
    call: Any = (
        (lambda: approve("0" * 64, "carol", enqueue=enqueue, gate=passes))
        if act == "approve"
        else (lambda: roll_back("carol", enqueue=enqueue))
    )
    with pytest.raises(NotFoundError, match="detector version"):
        call()
