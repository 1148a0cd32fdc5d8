"""The inference client against a real HTTP server that speaks the protocol, well or badly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from secmon_dagster import database as database_package
from secmon_dagster.settings import get_settings
from secmon_dagster.vecsec import DetectorModel, SecAgent, Verdict
from secmon_dagster.vecsec.inference import (
    BudgetExhaustedError,
    InferenceClient,
    InferenceError,
    configured,
    second_opinion,
)
from tests.conftest import Database
from tests.inference_service import KEY, Service, chat


@pytest.fixture
def service(database: Database) -> Iterator[Service]:
    with database.admin() as connection:
        connection.execute("UPDATE secmon.inference_budget SET credits = 10")
    service = Service()
    yield service
    service.close()


def client(service: Service, **options: Any) -> InferenceClient:
    settings = {"timeout": 0.3, "sleep": lambda _: None} | options
    return InferenceClient(service.url, KEY, "guard-1", **settings)


def calls(database: Database) -> list[tuple[Any, ...]]:
    with database.admin() as connection:
        return connection.execute(
            "SELECT status, attempts, prompt_tokens, error FROM secmon.inference_calls ORDER BY id"
        ).fetchall()


def budget(database: Database) -> tuple[float, float]:
    with database.admin() as connection:
        row = connection.execute("SELECT credits, reserved FROM secmon.inference_budget").fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_chat_is_sent_as_the_protocol_says_and_settled(
    service: Service, database: Database
) -> None:
    service.script = [chat("ATTACK")]
    assert client(service).chat("judge", "hello").content == "ATTACK"
    path, headers, body = service.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["messages"][1]) == ("guard-1", {"role": "user", "content": "hello"})
    assert calls(database) == [("success", 1, 40, None)]
    assert budget(database) == (pytest.approx(10 - 0.041), 0)


def test_embeddings_come_in_the_order_of_the_texts(service: Service) -> None:
    vectors = [{"index": 1, "embedding": [2, 2]}, {"index": 0, "embedding": [1, 1]}]
    service.script = [(200, {"data": vectors, "usage": {"prompt_tokens": 4}})]
    assert client(service).embeddings(["a", "b"]).content == [[1, 1], [2, 2]]


@pytest.mark.parametrize("trouble", ["late", "drip", "hang up", (429, {}), (503, b"busy")])
def test_passing_trouble_is_tried_again(service: Service, database: Database, trouble: Any) -> None:
    service.script = [trouble, chat("BENIGN")]
    assert client(service).chat("judge", "hello").content == "BENIGN"
    assert calls(database)[0][:2] == ("success", 2)


def test_retry_after_is_obeyed_up_to_ten_seconds(service: Service) -> None:
    waits: list[float] = []
    service.script = [(429, {}, ("Retry-After", "7")), (429, {}, ("Retry-After", "900")), chat("x")]
    client(service, sleep=waits.append, patience=60).chat("judge", "hello")
    assert waits == [7.0, 10.0]


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>"), (200, b""), (200, {}), (200, []), (200, {"choices": []}),
        (200, {"choices": [{"message": None}]}), (401, {}), (404, {}), (302, {}),
        (200, b"[" * 1_000_001),
        (200, b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e999}}'),
        (200, {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 10**30}}),
        (200, {"choices": [{"message": {"content": "x"}}], "usage": 7}),
    ],
)  # fmt: skip
def test_a_wrong_reply_is_one_named_error_and_costs_nothing(
    service: Service, database: Database, reply: Any
) -> None:
    service.script = [reply]
    with pytest.raises(InferenceError) as failed:
        client(service).chat("judge", "hello")
    assert KEY not in str(failed.value)
    assert len(service.asked) == 1
    assert calls(database)[0][0] == "failed"
    assert budget(database) == (10, 0)


def test_after_failures_in_a_row_the_service_is_left_alone_for_a_while(service: Service) -> None:
    service.script = [(500, {})]
    asking = client(service, tries=1, failures=2, pause=0.5)
    for _ in range(2):
        with pytest.raises(InferenceError, match="status 500"):
            asking.chat("judge", "hello")
    with pytest.raises(InferenceError, match="not asked for now"):
        asking.chat("judge", "hello")
    assert len(service.asked) == 2
    service.script = [chat("BENIGN")]
    time.sleep(0.6)
    assert asking.chat("judge", "hello").content == "BENIGN"


def test_without_credits_nothing_is_asked(service: Service, database: Database) -> None:
    with database.admin() as connection:
        connection.execute("UPDATE secmon.inference_budget SET credits = 0.001")
    service.script = [chat("BENIGN")]
    with pytest.raises(BudgetExhaustedError):
        client(service).chat("judge", "hello")
    assert service.asked == []


@pytest.fixture
def unsure(model: DetectorModel) -> SecAgent:
    """A detector that flags everything and blocks nothing."""
    return SecAgent(replace(model, flag=-100.0, block=100.0))


@pytest.mark.parametrize(
    ("word", "verdict"), [("ATTACK", Verdict.BLOCK), ("benign.", Verdict.ALLOW)]
)
def test_the_service_decides_where_the_detector_is_unsure(
    service: Service, unsure: SecAgent, word: str, verdict: Verdict
) -> None:
    service.script = [chat(word)]
    found = second_opinion(unsure, client(service), "hello")
    assert (found.verdict, found.decided_by) == (verdict, "inference service")


def test_on_an_outage_the_local_verdict_stands_and_says_so(
    service: Service, unsure: SecAgent
) -> None:
    service.script = [(503, {})]
    found = second_opinion(unsure, client(service), "hello")
    assert found.verdict is Verdict.FLAG
    assert found.decided_by.startswith("local: the inference service failed")


def test_a_clear_verdict_asks_nobody(service: Service, agent: SecAgent) -> None:
    service.script = [chat("ATTACK")]
    assert second_opinion(agent, client(service), "What time is it in Rome?").verdict == "allow"
    assert service.asked == []


def test_a_long_prompt_is_not_cleared_by_who_read_its_beginning_only(
    service: Service, unsure: SecAgent
) -> None:
    service.script = [chat("BENIGN")]
    found = second_opinion(unsure, client(service), "all is well. " * 1000)
    assert (found.verdict, found.decided_by[:6]) == (Verdict.FLAG, "local:")


def test_without_a_database_for_the_credits_the_local_verdict_stands(
    service: Service, unsure: SecAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    database_package.close_pools()
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    monkeypatch.setattr("secmon_dagster.database.sessions.POOL_WAIT_SECONDS", 0.5)
    get_settings.cache_clear()
    found = second_opinion(unsure, client(service), "hello")
    assert (found.verdict, found.decided_by[:6]) == (Verdict.FLAG, "local:")
    assert service.asked == []


def test_one_client_a_process_and_none_without_a_key(
    home: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured() is None
    monkeypatch.setenv("BASETEN_API_KEY", KEY)
    monkeypatch.setenv("BASETEN_MODEL_ID", "m")
    get_settings.cache_clear()
    assert configured() is configured() is not None
