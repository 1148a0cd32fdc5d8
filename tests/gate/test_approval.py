"""Approvals as the database enforces them, whoever asks it."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secmon_dagster.database import transaction
from secmon_dagster.errors import ConflictError, InvalidInputError, PermissionDeniedError
from secmon_dagster.gate import Gatekeeper, approval
from secmon_dagster.gate.approval import State

ALLOWED = {
    State.PENDING: {State.APPROVED, State.DENIED, State.EXPIRED, State.REVOKED},
    State.APPROVED: {State.EXPIRED, State.REVOKED},
}


@pytest.fixture
def keeper(database) -> Gatekeeper:
    return Gatekeeper()


@pytest.fixture
def artifact(keeper, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    return keeper.register(path, "a", "dataset", "ann", require_approval=True)


def test_asking_twice_is_one_request(keeper, artifact):
    first = keeper.request_approval(artifact.id, "bob")
    assert keeper.request_approval(artifact.id, "bob").id == first.id
    assert keeper.request_approval(artifact.id, "cid").id != first.id


def test_an_idempotency_key_of_somebody_else_is_a_conflict(keeper, artifact):
    keeper.request_approval(artifact.id, "bob", idempotency_key="k")
    with pytest.raises(ConflictError, match="idempotency"):
        keeper.request_approval(artifact.id, "cid", idempotency_key="k")


@pytest.mark.parametrize("user", ["bob", "ann", "Bob", "ANN", "ann ", "\uff41nn"])
def test_neither_requester_nor_uploader_approves_under_any_spelling(keeper, artifact, user):
    asked = keeper.request_approval(artifact.id, "bob")
    with pytest.raises(PermissionDeniedError, match=user):
        keeper.decide(asked.id, State.APPROVED, user)


def test_new_bytes_void_what_was_approved(keeper, artifact, tmp_path):
    asked = keeper.request_approval(artifact.id, "bob")
    keeper.decide(asked.id, State.APPROVED, "eve")
    keeper.check(artifact.id)
    keeper.open_released(artifact.id).close()
    other = tmp_path / "b.csv"
    other.write_text("a\n2\n")
    keeper.register(other, "a", "dataset", "ann", artifact_id=artifact.id, require_approval=True)
    with transaction() as connection:
        assert approval.find(connection, asked.id).state is State.REVOKED


def test_an_approval_runs_out(keeper, artifact):
    asked = keeper.request_approval(artifact.id, "bob", lifetime=timedelta(milliseconds=1))
    with pytest.raises(ConflictError, match="expired"):
        keeper.decide(asked.id, State.APPROVED, "eve")


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=-1), timedelta(days=366)])
def test_a_lifetime_outside_its_range_is_refused(keeper, artifact, lifetime):
    with pytest.raises(InvalidInputError, match="lifetime"):
        keeper.request_approval(artifact.id, "bob", lifetime=lifetime)


def test_a_decision_on_another_version_is_a_conflict(keeper, artifact):
    asked = keeper.request_approval(artifact.id, "bob")
    with pytest.raises(ConflictError, match="version"):
        keeper.decide(asked.id, State.DENIED, "eve", expected_version=asked.version + 1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(st.sampled_from(sorted(State)), min_size=1, max_size=4))
def test_the_database_follows_the_state_machine_and_nothing_else(keeper, artifact, database, path):
    with database.admin(autocommit=False) as sql:
        sql.execute("SET search_path = secmon, public")
        sql.execute("DELETE FROM approvals")
        (identity,) = sql.execute(
            "INSERT INTO approvals (artifact_id, sha256, policy_digest, requester, expires_at) "
            "VALUES (%s, %s, 'p', 'bob', now() + interval '1 day') RETURNING id",
            (artifact.id, artifact.sha256),
        ).fetchone()
        state = State.PENDING
        for target in path:
            legal = target in ALLOWED.get(state, set())
            try:
                with sql.transaction():
                    sql.execute(
                        "UPDATE approvals SET state = %s, decided_by = 'eve' WHERE id = %s",
                        (target, identity),
                    )
            except psycopg.errors.CheckViolation:
                assert not legal, (state, target)
            else:
                assert legal, (state, target)
                state = target
        sql.rollback()


@pytest.mark.parametrize(
    "change",
    ["sha256 = repeat('0', 64)", "requester = 'eve'", "policy_digest = 'q'",
     "expires_at = expires_at + interval '1 day'"],
)  # fmt: skip
def test_what_an_approval_is_bound_to_cant_be_changed(keeper, artifact, database, change):
    asked = keeper.request_approval(artifact.id, "bob")
    with database.admin() as sql, pytest.raises(psycopg.errors.CheckViolation, match="bound"):
        sql.execute(f"UPDATE secmon.approvals SET {change} WHERE id = %s", (asked.id,))
