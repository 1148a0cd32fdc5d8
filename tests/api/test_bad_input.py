"""Each kind of bad input has its answer, and none leaves anything half written."""

from __future__ import annotations

import pytest

from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService
from secmon_dagster.posture.keys import create_key, revoke_key
from secmon_dagster.posture.session import Session

TABLES = (
    "security_layers", "agent_instances", "security_profiles", "instance_activities",
    "security_violations", "security_checks", "security_score_history", "agent_workflows",
    "sub_workflows", "workflow_executions", "workflow_nodes", "workflow_patterns",
    "idempotency_keys", "audit_outbox", "audit_entries",
)  # fmt: skip
BOT, CHILD = "/api/security/instances/{bot}", "/api/agent/workflows/{child}"
# path, body, status, type of the problem, what its detail names
CASES = [
    (f"{BOT}/log-activity", {"action": "a", "prompt": "x" * 100_001}, 422, "invalid-input",
     "prompt"),
    (f"{BOT}/log-activity", {"action": "a" * 201}, 422, "invalid-input", "action"),
    (f"{BOT}/log-activity", {"action": "a", "details": {"x": "\x00"}}, 422, "invalid-input",
     "details"),
    (f"{BOT}/log-activity", {"action": 5}, 422, "invalid-input", "action"),
    (f"{BOT}/log-activity", {"action": "a", "colour": "red"}, 422, "invalid-input", "colour"),
    (f"{BOT}/attach-layer", {"layer_id": "none"}, 404, "not-found", "'none'"),
    ("/api/security/instances/none/check", None, 404, "not-found", "'none'"),
    ("/api/security/instances/{theirs}/check", None, 404, "not-found", "{theirs}"),
    ("/api/agent/workflows", {"name": "w", "job_name": "no job"}, 422, "invalid-input", "job_name"),
    ("/api/agent/workflows", {"name": "w", "input_schema": {"type": "strin"}}, 422,
     "invalid-input", "input_schema"),
    ("/api/agent/workflows", {"name": "w", "workflow_type": "spiral"}, 422, "invalid-input",
     "workflow_type"),
    (f"{CHILD}/subworkflows", {"child_workflow_id": "{parent}"}, 409, "conflict", "→"),
    (f"{CHILD}/subworkflows", {"child_workflow_id": "{child}"}, 409, "conflict", "→"),
    (f"{CHILD}/subworkflows", {"child_workflow_id": "{lone}", "condition": {"eval": "1"}}, 422,
     "invalid-input", "condition.eval"),
    (f"{CHILD}/execute-with-subs", {"input_data": {"n": "x"}}, 422, "invalid-input", "input_data"),
    (f"{CHILD}/execute-with-subs", {"input_data": {"n": 1}, "instance_id": "{theirs}"}, 404,
     "not-found", "{theirs}"),
    ("/api/security/patterns", {"workflow_id": "{child}", "pattern_type": "lucky",
     "execution_data": {"duration_ms": 1, "success": True}}, 422, "invalid-input", "pattern_type"),
    ("/api/security/patterns", {"workflow_id": "{child}", "pattern_type": "successful",
     "execution_data": {"duration_ms": -1, "success": True}}, 422, "invalid-input", "duration_ms"),
]  # fmt: skip


@pytest.fixture
def names(database) -> dict[str, str]:
    agents, security = AgentManagementService(), SecurityMonitoringService()
    bot, theirs = (agents.create_instance("b", owner_id=who).instance_id for who in ("ada", "bob"))
    for instance in (bot, theirs):
        security.attach_security_layer_to_instance(instance, "default")
    schema = {"properties": {"n": {"type": "integer"}}}
    parent, child, lone = (
        agents.create_workflow(name, owner_id="ada", input_schema=schema).workflow_id
        for name in ("parent", "child", "lone")
    )
    agents.add_sub_workflow(parent, child)
    return {"bot": bot, "theirs": theirs, "parent": parent, "child": child, "lone": lone}


def filled(value, names: dict[str, str]):
    if isinstance(value, dict):
        return {key: filled(item, names) for key, item in value.items()}
    return value.format(**names) if isinstance(value, str) and value.startswith("{") else value


def rows(database) -> dict[str, int]:
    with database.admin() as admin:
        return {
            table: admin.execute(f"SELECT count(*) FROM secmon.{table}").fetchone()[0]
            for table in TABLES
        }


def test_each_kind_is_answered_and_leaves_nothing_behind(client, key, names, database):
    headers = key()
    before = rows(database)
    for number, (path, body, status, kind, named) in enumerate(CASES):
        refused = client.post(
            path.format(**names),
            json=filled(body, names),
            headers=headers | {"Idempotency-Key": f"case-{number}"},
        )
        assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{kind}"), path
        assert filled(named, names) in refused.json()["detail"], refused.text
    assert rows(database) == before


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN", b"1e400", b"1" + b"0" * 400])
def test_what_json_can_not_hold_is_refused_with_a_key_as_without(client, key, names, value):
    headers = key() | {"Content-Type": "application/json"}
    path = f"/api/security/instances/{names['bot']}/log-activity"
    for more in ({}, {"Idempotency-Key": "k"}):
        refused = client.post(
            path,
            content=b'{"action": "a", "details": {"x": ' + value + b"}}",
            headers=headers | more,
        )
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-input")


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE secmon.agent_instances; --", "$1 %s {} \\", "😀\u202e"]
)
def test_what_looks_like_sql_is_text(client, key, database, text):
    headers = key()
    made = client.post("/api/agent/instances", json={"name": text}, headers=headers)
    assert made.status_code == 201 and made.json()["name"] == text
    assert client.get("/api/agent/instances", params={"after": text}, headers=headers).is_success
    path = f"/api/security/instances/{made.json()['instance_id']}/log-activity"
    assert client.post(path, json={"action": text, "output": text}, headers=headers).is_success
    assert client.get("/api/audit/entries", params={"actor": text}, headers=headers).json() == []
    assert rows(database)["agent_instances"] == 1


def test_an_ended_key_changes_nothing_wherever_it_is_used(client, database, names):
    made, text = create_key(Session.open(), user_id="ada", role="operator")
    revoke_key(Session.open(), made.key_id)
    before = rows(database)
    refused = client.post(
        "/api/agent/instances", json={"name": "x"}, headers={"Authorization": f"Bearer {text}"}
    )
    assert (refused.status_code, refused.json()["detail"]) == (401, "The API key is revoked")
    assert rows(database) == before
