"""A check against a stored baseline, as it is recorded."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from secmon_dagster.database import transaction
from secmon_dagster.drift import (
    ExecutionStatus,
    Window,
    load_baseline,
    profile,
    run_check,
    save_baseline,
)
from secmon_dagster.errors import ConflictError, NotFoundError
from tests.drift_data import RecordedAudit, frame


@pytest.fixture
def model(database: Any) -> tuple[str, str]:
    save_baseline("churn", "1", profile(frame(seed=1)))
    return "churn", "1"


def rows_of(query: str, *values: Any) -> list[tuple[Any, ...]]:
    with transaction() as connection:
        return connection.execute(query, values).fetchall()


def test_a_stored_baseline_comes_back_with_the_same_hash(database: Any) -> None:
    made = profile(frame(seed=1), outputs=[0.1, 0.2])
    assert save_baseline("churn", "1", made) == made.content_hash
    assert load_baseline("churn", "1").content_hash == made.content_hash


def test_another_baseline_for_the_same_version_is_refused(model: tuple[str, str]) -> None:
    with pytest.raises(ConflictError, match="another baseline"):
        save_baseline(*model, profile(frame(seed=2)))
    replaced = profile(frame(seed=2))
    save_baseline(*model, replaced, replace=True)
    assert load_baseline(*model).content_hash == replaced.content_hash


def test_a_baseline_of_another_version_is_named(model: tuple[str, str]) -> None:
    with pytest.raises(NotFoundError, match=r"no drift baseline for version 2; it has one for 1"):
        load_baseline("churn", "2")


def test_a_shifted_window_is_critical_and_recorded_with_its_metrics(
    model: tuple[str, str], audit: RecordedAudit
) -> None:
    result = run_check(*model, frame(seed=3, shift=2.0), audit=audit)
    assert (result.status, result.alert_level) == (ExecutionStatus.COMPLETED, "CRITICAL")
    assert result.alert_generated
    stored = rows_of(
        "SELECT status, alert_level, alert_generated FROM drift_checks WHERE check_id = %s",
        result.check_id,
    )
    assert stored == [("completed", "CRITICAL", True)]
    levels = dict(
        rows_of(
            "SELECT name, level FROM drift_metrics WHERE check_id = %s AND drift_type = 'input'",
            result.check_id,
        )
    )
    assert levels == {"amount": "CRITICAL", "age": "NORMAL", "channel": "NORMAL"}


def test_an_unchanged_window_is_normal_and_tells_nobody(
    model: tuple[str, str], audit: RecordedAudit
) -> None:
    result = run_check(*model, frame(seed=4), audit=audit)
    assert result.alert_level == "NORMAL"
    assert audit.actions() == ["DRIFT_CHECK"]
    assert rows_of("SELECT * FROM alert_outbox") == []


def test_a_level_that_stays_is_told_once_and_its_changes_are_told(
    model: tuple[str, str], audit: RecordedAudit
) -> None:
    for shift in (0.45, 0.45, 2.0, 2.0, 0.45, 0.0, 0.0):
        run_check(*model, frame(seed=5, shift=shift), audit=audit)
    told = rows_of("SELECT event, level FROM alert_outbox ORDER BY created_at")
    assert told == [
        ("raised", "WARNING"),
        ("escalated", "CRITICAL"),
        ("lowered", "WARNING"),
        ("resolved", "NORMAL"),
    ]
    assert audit.actions().count("DRIFT_ALERT") == 4


def test_a_window_too_small_says_so_and_leaves_an_open_alert_open(
    model: tuple[str, str], audit: RecordedAudit
) -> None:
    run_check(*model, frame(seed=6, shift=2.0), audit=audit)
    result = run_check(*model, frame(5, seed=6), audit=audit)
    assert (result.status, result.alert_level) == (ExecutionStatus.COMPLETED, None)
    assert result.reason is not None and "at least 30 are needed" in result.reason
    assert rows_of("SELECT level FROM drift_model_state") == [("CRITICAL",)]


@pytest.mark.parametrize(
    ("window", "sentence"),
    [
        (lambda: frame().drop(columns=["age"]), "without column age"),
        (lambda: frame().assign(age="old"), "age in the current window"),
        (lambda: 1 / 0, "the check raised ZeroDivisionError"),
        (lambda: [1, 2], "a pandas DataFrame or a mapping of columns"),
    ],
)
def test_a_window_that_cannot_be_read_fails_with_one_sentence(
    model: tuple[str, str], audit: RecordedAudit, window: Any, sentence: str
) -> None:
    result = run_check(*model, window, audit=audit)
    assert result.status is ExecutionStatus.FAILED
    assert result.alert_level is None
    assert result.error_message is not None and sentence in result.error_message
    assert audit.actions() == ["DRIFT_CHECK_FAILED"]


def test_a_model_without_a_baseline_fails_and_says_what_to_do(
    database: Any, audit: RecordedAudit
) -> None:
    result = run_check("unknown", "1", frame(), audit=audit)
    assert result.status is ExecutionStatus.FAILED
    assert result.error_message == "model unknown has no drift baseline for version 1"


def test_a_check_is_taken_by_one_run_only(model: tuple[str, str], audit: RecordedAudit) -> None:
    run_check(*model, frame(), check_id="once", audit=audit)
    with pytest.raises(ConflictError, match="already taken"):
        run_check(*model, frame(), check_id="once", audit=audit)


def test_an_alert_that_cannot_be_audited_is_not_recorded_either(model: tuple[str, str]) -> None:
    def refusing(connection: psycopg.Connection[Any], /, **entry: Any) -> str:
        raise RuntimeError("the chain is away")

    with pytest.raises(RuntimeError, match="the chain is away"):
        run_check(*model, frame(seed=3, shift=2.0), check_id="lost", audit=refusing)
    assert rows_of("SELECT * FROM alert_outbox") == []
    assert rows_of("SELECT * FROM drift_metrics") == []
    assert rows_of("SELECT status FROM drift_checks WHERE check_id = 'lost'") == [("running",)]


def test_no_feature_value_reaches_the_chain(model: tuple[str, str], audit: RecordedAudit) -> None:
    secret = frame(seed=7, shift=2.0).assign(channel="secret-channel")
    run_check(*model, Window(input_data=secret), audit=audit)
    assert "secret-channel" not in repr(audit.entries)
