from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest

from secmon_dagster.api import packages
from secmon_dagster.audit import get_audit_logger
from secmon_dagster.database.sessions import POOL_SIZE
from secmon_dagster.drift import DriftScheduler
from secmon_dagster.posture.keys import create_key, revoke_key
from secmon_dagster.posture.session import Session
from secmon_dagster.settings import get_settings

PROBLEM = "application/problem+json"


def test_health_needs_no_key_and_readiness_looks_at_the_schema(client, database):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200
    with database.admin() as admin:
        admin.execute("UPDATE secmon.alembic_version SET version_num = '0001'")
    refused = client.get("/readyz")
    assert refused.status_code == 503
    assert refused.json()["type"] == "/problems/schema-mismatch"


def test_who_may_not_call_does_not_learn_where_the_database_is(client, key, monkeypatch):
    headers = key()
    for url in ("postgresql://someone@127.0.0.1:1/ledger", None):
        if url is None:
            monkeypatch.delenv("SECMON_DATABASE_URL")
        else:
            monkeypatch.setenv("SECMON_DATABASE_URL", url)
        get_settings.cache_clear()
        for path in ("/readyz", "/api/security/layers"):
            refused = client.get(path, headers=headers)
            assert (refused.status_code, refused.json()["detail"]) == (
                503, "The database does not answer",
            )  # fmt: skip
            assert "hint" not in refused.json() and refused.headers["retry-after"] == "5"


def test_both_default_layers_are_there_after_migration(client, key):
    layers = {
        layer["name"]: layer
        for layer in client.get("/api/security/layers", headers=key("viewer")).json()
    }
    default, strict = layers["Default Security Layer"], layers["Strict Security Layer"]
    assert (default["monitoring_mode"], strict["monitoring_mode"]) == ("active", "strict")
    assert default["config"] == {
        "max_execution_time": 300_000,
        "max_memory_mb": 512,
        "allowed_network_access": True,
        "require_approval": False,
        "auto_terminate_on_violation": False,
        "log_all_activities": True,
        "max_requests_per_minute": 60,
    }
    assert strict["config"] == {
        "max_execution_time": 180_000,
        "max_memory_mb": 256,
        "allowed_network_access": False,
        "require_approval": True,
        "auto_terminate_on_violation": True,
        "log_all_activities": True,
        "max_requests_per_minute": 30,
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic dXNlcjpwdw=="},
        {"X-API-Key": "secmon_000000000000_" + "A" * 43},
    ],
)
def test_without_a_valid_key_there_is_a_challenge_and_nothing_else(client, headers):
    refused = client.get("/api/security/layers", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == PROBLEM
    assert refused.json()["type"] == "/problems/unauthenticated"


def test_a_key_ends_when_it_expires_and_when_it_is_revoked(client, database):
    made, text = create_key(Session.open(), user_id="ada", role="viewer")
    headers = {"X-API-Key": text}
    assert client.get("/api/security/layers", headers=headers).status_code == 200
    revoke_key(Session.open(), made.key_id)
    assert client.get("/api/security/layers", headers=headers).json()["detail"] == (
        "The API key is revoked"
    )
    _, brief = create_key(
        Session.open(), user_id="ada", role="viewer", lifetime=timedelta(seconds=1)
    )
    with database.admin() as admin:
        admin.execute("UPDATE secmon.api_keys SET expires_at = now() WHERE revoked_at IS NULL")
    expired = client.get("/api/security/layers", headers={"X-API-Key": brief})
    assert (expired.status_code, expired.json()["detail"]) == (401, "The API key is expired")


def test_the_database_keeps_no_key_that_could_be_used(database):
    _, text = create_key(Session.open(), user_id="ada", role="admin")
    secret = text.rsplit("_", 1)[1] if text.count("_") == 2 else text[20:]
    with database.admin() as admin:
        rows = admin.execute("SELECT k::text FROM secmon.api_keys k").fetchall()
        outbox = admin.execute("SELECT o::text FROM secmon.audit_outbox o").fetchall()
    assert rows and secret not in str(rows) and secret not in str(outbox)


def test_every_answer_carries_a_request_id_and_takes_over_a_clean_one(client):
    assert re.fullmatch(r"[0-9a-f-]{36}", client.get("/healthz").headers["x-request-id"])
    mine = client.get("/healthz", headers={"X-Request-Id": "trace-1"})
    assert mine.headers["x-request-id"] == "trace-1"
    forged = client.get("/nowhere", headers={"X-Request-Id": "a b\tSet-Cookie: x"})
    assert "Set-Cookie" not in str(forged.headers)
    assert forged.json()["request_id"] == forged.headers["x-request-id"]


def test_the_request_id_is_in_the_audit_entry(client, key, database):
    made = client.post(
        "/api/agent/instances",
        json={"name": "bot"},
        headers=key() | {"X-Request-Id": "trace-7"},
    )
    assert made.status_code == 201
    with database.admin() as admin:
        rows = admin.execute(
            "SELECT details, actor FROM secmon.audit_outbox WHERE action = 'create_instance'"
        ).fetchall()
    assert rows and all("trace-7" in str(details) and actor == "ada" for details, actor in rows)


def test_after_a_restore_the_latest_checkpoint_is_the_one_over_what_is_there(client, key, database):
    logger = get_audit_logger()
    entries = logger.append_entries([{"action": "A", "actor": "a", "resource_type": "t"}] * 5)
    logger.checkpoint()
    with database.admin() as admin:
        admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        admin.execute("DELETE FROM secmon.audit_entries WHERE seq > 2")
        admin.execute(
            "UPDATE secmon.audit_head h SET seq = 2, entry_hash = e.entry_hash"
            " FROM secmon.audit_entries e WHERE e.seq = 2"
        )
    logger.new_incarnation("restored from a backup")
    late = logger.append_entry("A", "a", "t")
    headers = key("admin")
    assert client.get("/api/audit/checkpoint", headers=headers).json()["size"] == 3
    for entry, status in ((entries[0], 200), (late, 404)):
        answer = client.get(f"/api/audit/entries/{entry}/proof", headers=headers)
        assert answer.status_code == status


def test_an_unknown_path_and_a_wrong_method_are_problems(client):
    missing = client.get("/api/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, PROBLEM)
    wrong = client.delete("/api/security/layers")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET, POST"


def test_a_body_over_the_limit_is_refused_whether_it_says_its_size_or_not(client, key):
    headers = key()
    big = b'{"name": "' + b"x" * 2_000_000 + b'"}'
    announced = client.post("/api/agent/instances", content=big, headers=headers)
    assert (announced.status_code, announced.json()["type"]) == (
        413,
        "/problems/content-too-large",
    )
    chunked = client.post(
        "/api/agent/instances",
        content=(big[i : i + 65536] for i in range(0, len(big), 65536)),
        headers=headers,
    )
    assert chunked.status_code == 413


def test_who_may_not_call_learns_nothing_of_what_a_call_takes(client, key):
    for content in (b"{", b"\xff\xfe", b'{"colour": "red"}'):
        body = {"content": content, "headers": {"Content-Type": "application/json"}}
        assert client.post("/api/agent/instances", **body).status_code == 401
        body["headers"] |= key()
        refused = client.post("/api/agent/instances", **body)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-input")


def test_calls_that_make_no_sense_count_against_the_rate_too(client, key, monkeypatch):
    monkeypatch.setenv("SECMON_API_REQUESTS_PER_MINUTE", "2")
    get_settings.cache_clear()
    headers = key()
    answers = [client.post("/api/agent/instances", json=[], headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422, 422, 429]


def test_no_other_origin_is_let_in(client):
    answer = client.get("/healthz", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_repeated_write_with_one_idempotency_key_happens_once(client, key, database):
    headers = key() | {"Idempotency-Key": "k-1"}
    first = client.post("/api/agent/instances", json={"name": "bot"}, headers=headers)
    again = client.post("/api/agent/instances", json={"name": "bot"}, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    other = client.post("/api/agent/instances", json={"name": "other"}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    with database.admin() as admin:
        assert admin.execute("SELECT count(*) FROM secmon.agent_instances").fetchone() == (1,)


def test_concurrent_writes_with_one_idempotency_key_happen_once(client, key, database):
    headers = key() | {"Idempotency-Key": "k-2"}
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                client.post("/api/agent/instances", json={"name": "bot"}, headers=headers)
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    with database.admin() as admin:
        assert admin.execute("SELECT count(*) FROM secmon.agent_instances").fetchone() == (1,)


def test_a_repeated_upload_and_a_repeated_label_happen_once_too(client, key, database):
    headers = key()
    for path, sent, table in (
        ("/packages?name=m", {"content": b"bytes"}, "artifacts"),
        ("/api/vecsec/feedback", {"json": {"text": "hi", "label": 0}}, "vecsec_feedback"),
    ):
        known = headers | {"Idempotency-Key": table}
        if "content" in sent:
            known |= {"Content-Type": "application/octet-stream"}
        first, again = (client.post(path, headers=known, **sent) for _ in range(2))
        assert first.is_success and first.content == again.content
        assert again.headers["idempotency-replayed"] == "true"
        assert first.headers.get("location") == again.headers.get("location")
        with database.admin() as admin:
            assert admin.execute(f"SELECT count(*) FROM secmon.{table}").fetchone() == (1,)


def test_a_write_under_way_is_a_conflict_and_one_that_failed_or_died_frees_its_key(
    client, key, database, monkeypatch
):
    headers = key() | {"Idempotency-Key": "k", "Content-Type": "application/octet-stream"}

    def upload():
        return client.post("/packages?name=m", content=b"bytes", headers=headers)

    def meanwhile(*_, **__):
        seen.append(upload().status_code)
        raise RuntimeError

    seen = []
    monkeypatch.setattr(packages.gatekeeper(), "register", meanwhile)
    assert (upload().status_code, seen) == (500, [409])
    monkeypatch.undo()
    assert not list((get_settings().home / "artifacts" / "uploads").iterdir())
    with database.admin() as admin:
        admin.execute(
            "INSERT INTO secmon.idempotency_keys (user_id, key, request_hash, created_at) "
            "VALUES ('ada', 'k', '', now() - interval '11 minutes')"
        )
    assert upload().status_code == 201


def test_a_failed_write_can_be_repeated_with_its_key(client, key):
    headers = key() | {"Idempotency-Key": "k-3"}
    path = "/api/agent/workflows/none/subworkflows"
    assert client.post(path, json={"child_workflow_id": "x"}, headers=headers).status_code == 404
    assert client.post(path, json={"child_workflow_id": "x"}, headers=headers).status_code == 404


def test_a_read_the_caller_has_already_is_304(client, key):
    headers = key("viewer")
    first = client.get("/api/security/layers/default", headers=headers)
    again = client.get(
        "/api/security/layers/default", headers=headers | {"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    whatever = client.get("/api/security/layers/default", headers=headers | {"If-None-Match": "*"})
    assert whatever.status_code == 304


def test_what_is_known_of_an_artifact_has_etags_too(client, key, ids):
    headers = key("viewer")
    for path in ("history", f"history/{ids['check']}", "approvals"):
        first = client.get(f"/packages/{ids['file']}/{path}", headers=headers)
        known = headers | {"If-None-Match": first.headers["etag"]}
        assert client.get(f"/packages/{ids['file']}/{path}", headers=known).status_code == 304


def test_more_reads_at_once_than_there_are_connections_do_not_wait_for_each_other(client, key):
    headers, together = key("admin"), threading.Barrier(POOL_SIZE)
    statistics, answers = DriftScheduler.get_statistics, []

    def when_all_are_there(scheduler):
        together.wait(20)
        return statistics(scheduler)

    def ask() -> None:
        answers.append(client.get("/api/drift/statistics", headers=headers).status_code)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DriftScheduler, "get_statistics", when_all_are_there)
        threads = [threading.Thread(target=ask) for _ in range(POOL_SIZE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * POOL_SIZE


def test_pages_link_to_the_next_until_there_is_none(client, key):
    headers = key()
    made = {
        client.post("/api/agent/instances", json={"name": f"b{n}"}, headers=headers).json()[
            "instance_id"
        ]
        for n in range(5)
    }
    seen, path = [], "/api/agent/instances?limit=2"
    while path:
        page = client.get(path, headers=headers)
        seen += [instance["instance_id"] for instance in page.json()]
        link = page.headers.get("link")
        path = re.match(r"<(.*)>; rel=\"next\"", link)[1] if link else None
    assert len(seen) == 5 and set(seen) == made
