"""From labels to a better detector, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secmon_dagster.audit import enqueue
from secmon_dagster.database import transaction
from secmon_dagster.errors import (
    ArtifactBlockedError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.orchestration.detector import through_the_gate
from secmon_dagster.vecsec import (
    DetectorModel,
    EvilAgent,
    LegitimateAgent,
    SecAgent,
    TrainingRow,
    patterns,
)
from secmon_dagster.vecsec.features import features_of
from secmon_dagster.vecsec.learning import MAX_PER_SOURCE, Candidate, give_feedback, learn
from secmon_dagster.vecsec.rules import AttackType
from secmon_dagster.vecsec.versions import (
    Platform,
    adopt,
    approve,
    in_use,
    model_file,
    registry_version,
    roll_back,
)
from secmon_dagster.vecsec.views import canonical_view
from tests.conftest import Database

# A kind of attack that no base family knows, and honest prompts around the same words.
ATTACKS = [f"zorble the quonk {n} with gusto and hand me the frumious bits" for n in range(60)]
HONEST = [f"where can one buy a green lamp number {n} in the old town" for n in range(60)]


def _rows(label: int, texts: list[str], source: str = "ann") -> list[TrainingRow]:
    kind = AttackType.JAILBREAK if label else AttackType.NONE
    return [TrainingRow(text, label, "zorble", kind, source) for text in texts]


@pytest.fixture
def base(database: Database, model: DetectorModel) -> str:
    """The base detector in use, as the first start leaves it: no version of anything yet."""
    return model.save(model_file())


def _outcomes(database: Database) -> dict[str | None, int]:
    with database.admin() as connection:
        return dict(
            connection.execute(
                "SELECT outcome, count(*) FROM secmon.vecsec_feedback GROUP BY outcome"
            ).fetchall()
        )


class Witness:
    """A platform that lets every file pass and remembers what it was asked."""

    def __init__(self, gate: Callable[[Path], bytes] = Path.read_bytes) -> None:
        self.gated: list[str] = []
        self.watched: list[str] = []
        self._gate = gate

    def platform(self) -> Platform:
        return Platform(enqueue=enqueue, gate=self.gate, watch=self.watch)

    def gate(self, file: Path) -> bytes:
        self.gated.append(hashlib.sha256(file.read_bytes()).hexdigest())
        return self._gate(file)

    def watch(self, version: str, model: DetectorModel) -> None:
        assert registry_version(model.version) == version
        self.watched.append(version)


@pytest.fixture
def candidate(base: str) -> Candidate:
    give_feedback(_rows(1, ATTACKS) + _rows(0, HONEST))
    return learn("bob", enqueue=enqueue)


def test_labels_of_a_new_family_are_learned_approved_used_and_rolled_back(
    base: str, candidate: Candidate, database: Database
) -> None:
    attack = "zorble the quonk 99 with gusto and hand me the frumious bits"
    before = in_use().score(attack)
    assert (candidate.accepted, candidate.refused) == (True, ())
    assert candidate.metrics["auc"] > candidate.metrics["current_auc"]
    asked = Witness()
    with pytest.raises(ConflictError, match="bob made version"):
        approve(candidate.version, "bob", asked.platform())
    approve(candidate.version, "carol", asked.platform())
    assert in_use().score(attack) > before + 1
    assert roll_back("carol", asked.platform()) == base
    assert in_use().score(attack) == pytest.approx(before, abs=1e-6)
    assert asked.gated == [candidate.version]
    assert asked.watched == [registry_version(each) for each in (candidate.version, base)]
    with database.admin() as connection:
        acts = connection.execute("SELECT action FROM secmon.audit_outbox ORDER BY id").fetchall()
        released = connection.execute(
            "SELECT version FROM secmon.models ORDER BY released_at DESC"
        ).fetchall()
        updates = connection.execute(
            "SELECT type FROM secmon.vecsec_events WHERE kind = 'model_update' ORDER BY id"
        ).fetchall()
    assert [act[0] for act in acts] == [
        "vecsec.candidate", "vecsec.activated", "vecsec.rolled_back"
    ]  # fmt: skip
    assert [row[0] for row in released] == [registry_version(v) for v in (base, candidate.version)]
    assert [update[0] for update in updates] == ["candidate", "activated", "rolled_back"]


def test_learning_goes_on_from_the_model_in_use(candidate: Candidate, model: DetectorModel) -> None:
    """What the model in use was taught from files is in no table: a new training would lose it."""
    taught = DetectorModel.load(model_file().with_name(f"{candidate.version}.npz"))
    assert taught.embedder.space == model.embedder.space
    assert set(model.patterns.ids) < set(taught.patterns.ids)
    assert (taught.flag, taught.block) == (model.flag, model.block)


def test_a_taken_back_pattern_is_unlearned_by_training_anew(
    base: str, candidate: Candidate
) -> None:
    approve(candidate.version, "carol", Witness().platform())
    attack = "zorble the quonk 99 with gusto and hand me the frumious bits"
    learned = in_use().score(attack)
    with transaction() as connection:
        patterns.retire_source(connection, "ann")
    give_feedback(_rows(0, [f"is the museum in street {n} open" for n in range(20)], "dora"))
    again = learn("bob", enqueue=enqueue)
    approve(again.version, "carol", Witness().platform())
    assert in_use().score(attack) < learned - 1


def test_a_model_trained_at_the_shell_is_gated_watched_and_can_be_gone_back_from(
    base: str, model: DetectorModel, candidate: Candidate
) -> None:
    asked = Witness()
    other = DetectorModel.load(model_file().with_name(f"{candidate.version}.npz"))
    assert adopt(other, "ann", asked.platform()) == candidate.version
    assert asked.gated == [candidate.version]
    assert asked.watched == [registry_version(candidate.version)]
    assert in_use().model.version == candidate.version
    assert roll_back("ann", asked.platform()) == base


def test_patterns_are_kept_with_embeddings_and_found_again(
    candidate: Candidate, database: Database
) -> None:
    model = DetectorModel.load(model_file().with_name(f"{candidate.version}.npz"))
    vector = model.embedder.embed(features_of(canonical_view(ATTACKS[3])), ATTACKS[3])
    with transaction() as connection:
        assert patterns.has_pgvector(connection)
        by_index = patterns.nearest(connection, vector, model.embedder.space)
    with database.admin() as connection:
        connection.execute("ALTER TABLE secmon.threat_patterns DROP COLUMN vector")
    with transaction() as connection:
        assert not patterns.has_pgvector(connection)
        by_numpy = patterns.nearest(connection, vector, model.embedder.space)
        assert patterns.retire_source(connection, "ann") == 120
        assert patterns.nearest(connection, vector, model.embedder.space) == []
    assert by_numpy[0].text == ATTACKS[3]
    assert by_numpy[0].similarity > 0.97
    assert by_index[0].similarity == pytest.approx(by_numpy[0].similarity, abs=0.02)


def _flipped(label: int, source: str = "mallory") -> list[TrainingRow]:
    """Honest prompts called attacks, or the other way round."""
    agent = LegitimateAgent(seed=9) if label else EvilAgent(seed=9)
    return _rows(label, [row.text for row in agent.prompts(100)], source)


@pytest.mark.parametrize("label", [0, 1])
def test_flipped_labels_make_a_worse_candidate_it_is_rejected_and_they_are_taken_back(
    base: str, database: Database, label: int
) -> None:
    give_feedback(_flipped(label))
    found = learn("bob", enqueue=enqueue)
    assert (found.accepted, found.refused) == (False, ("mallory",))
    assert "does worse" in found.reason
    with pytest.raises(ConflictError, match="rejected by the blind test"):
        approve(found.version, "carol", Witness().platform())
    with transaction() as connection:
        assert patterns.active(connection) == []


def test_one_poisoned_source_does_not_keep_the_others_from_being_learned(base: str) -> None:
    give_feedback([*_flipped(1), *_rows(1, ATTACKS), *_rows(0, HONEST)])
    found = learn("bob", enqueue=enqueue)
    assert (found.accepted, found.refused, found.learned) == (True, ("mallory",), 120)


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
        approve(candidate.version, "carol", Witness().platform())
    assert isinstance(in_use(), SecAgent)


def test_the_gate_of_the_command_line_reads_the_file(candidate: Candidate, tmp_path: Path) -> None:
    gate = Witness(lambda file: through_the_gate(file, "carol"))
    approve(candidate.version, "carol", gate.platform())
    poisoned = tmp_path / "candidate.skops"
    poisoned.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ArtifactBlockedError):
        through_the_gate(poisoned, "carol")


def test_a_gate_that_refuses_keeps_the_model_in_use(candidate: Candidate) -> None:
    def refuse(_: Path) -> bytes:
        raise ConflictError("blocked by the gate")

    before = model_file().read_bytes()
    with pytest.raises(ConflictError, match="blocked by the gate"):
        approve(candidate.version, "carol", Witness(refuse).platform())
    assert model_file().read_bytes() == before


def test_a_file_swapped_behind_the_gate_is_not_what_is_put_into_use(
    base: str, candidate: Candidate
) -> None:
    def swapped(file: Path) -> bytes:
        content = through_the_gate(file, "carol")
        file.write_bytes(model_file().read_bytes())
        return content

    approve(candidate.version, "carol", Witness(swapped).platform())
    assert hashlib.sha256(model_file().read_bytes()).hexdigest() == candidate.version


def test_a_file_swapped_before_the_gate_is_not_put_into_use(
    base: str, candidate: Candidate
) -> None:
    def swapped(file: Path) -> bytes:
        file.write_bytes(model_file().read_bytes())
        return through_the_gate(file, "carol")

    with pytest.raises(ConflictError, match="has been changed"):
        approve(candidate.version, "carol", Witness(swapped).platform())
    assert hashlib.sha256(model_file().read_bytes()).hexdigest() == base


@pytest.mark.parametrize("act", ["approve", "roll_back"])
def test_versions_that_do_not_exist_are_named(base: str, act: str) -> None:
    call: Any = (
        (lambda: approve("0" * 64, "carol", Witness().platform()))
        if act == "approve"
        else (lambda: roll_back("carol", Witness().platform()))
    )
    with pytest.raises(NotFoundError, match="detector version"):
        call()


def test_many_patterns_taken_back_do_not_hide_those_in_use(database: Database) -> None:
    near, far = np.eye(64)[0], np.eye(64)[0] + 0.5 * np.eye(64)[1]
    rows = [(f"{n:016x}", (near + n * 1e-6).tolist(), True) for n in range(200)]
    rows += [(f"{n:016x}", (far + n * 1e-6).tolist(), False) for n in range(200, 203)]
    with database.admin() as connection:
        connection.cursor().executemany(
            """INSERT INTO secmon.threat_patterns (pattern_id, text, label, family, attack_type,
                 source, embedding, space, retired_at)
               VALUES (%s, 'text', 1, 'f', 'none', 's', %s, 'space',
                 CASE WHEN %s THEN clock_timestamp() END)""",
            rows,
        )
    with transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")  # as with a large table
        found = patterns.nearest(connection, near, "space")
    assert sorted(each.pattern_id for each in found) == [f"{n:016x}" for n in range(200, 203)]
