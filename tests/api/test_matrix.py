"""Every role at every endpoint, cell by cell, and another tenant at each."""

from __future__ import annotations

import re

import pytest

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.agents import AgentManagementService
from secmon_dagster.posture.service import SecurityMonitoringService

pytestmark = pytest.mark.usefixtures("detector_in_use")

READ, OPERATE, APPROVE, ADMINISTER = "read", "operate", "approve", "administer"
MAY = {
    "viewer": {READ},
    "operator": {READ, OPERATE},
    "approver": {READ, APPROVE},
    "admin": {READ, OPERATE, APPROVE, ADMINISTER},
}
# method, path, body, what it takes, whether it names something that belongs to someone; {names} are
# those of the fixture ``ids`` in conftest.py
ENDPOINTS = [
    ("POST", "/api/security/layers", {"name": "n-{role}"}, ADMINISTER, False),
    ("GET", "/api/security/layers", None, READ, False),
    ("GET", "/api/security/layers/{l}", None, READ, False),
    ("POST", "/api/security/instances/{i}/attach-layer", {"layer_id": "default"}, OPERATE, True),
    ("GET", "/api/security/instances/{i}/profile", None, READ, True),
    ("POST", "/api/security/instances/{i}/check", None, OPERATE, True),
    ("GET", "/api/security/instances/{i}/checks?limit=100", None, READ, True),
    ("GET", "/api/security/instances/{i}/scores", None, READ, True),
    ("GET", "/api/security/instances/{i}/activity", None, READ, True),
    ("GET", "/api/security/instances/{i}/violations", None, READ, True),
    ("POST", "/api/security/instances/{i}/log-activity", {"action": "act"}, OPERATE, True),
    (
        "POST",
        "/api/security/patterns",
        {
            "workflow_id": "{w}",
            "pattern_type": "successful",
            "execution_data": {"duration_ms": 2500, "success": True, "security_score": 95},
        },
        OPERATE,
        True,
    ),
    ("GET", "/api/security/patterns/successful?min_success_rate=80", None, READ, False),
    ("POST", "/api/agent/instances", {"name": "n"}, OPERATE, False),
    ("GET", "/api/agent/instances", None, READ, False),
    ("GET", "/api/agent/instances/{i}", None, READ, True),
    ("POST", "/api/agent/workflows", {"name": "n"}, OPERATE, False),
    ("GET", "/api/agent/workflows", None, READ, False),
    ("GET", "/api/agent/workflows/{w}", None, READ, True),
    (
        "POST",
        "/api/agent/workflows/{w}/subworkflows",
        {"child_workflow_id": "{c}", "execution_order": "{n}"},
        OPERATE,
        True,
    ),
    ("GET", "/api/agent/workflows/{w}/subworkflows", None, READ, True),
    (
        "POST",
        "/api/agent/workflows/{w}/execute-with-subs",
        {"input_data": {"target": "x"}},
        OPERATE,
        True,
    ),
    ("GET", "/api/agent/executions/{e}", None, READ, True),
    ("GET", "/api/violations", None, READ, False),
    ("GET", "/api/usage?job_name=x", None, READ, False),
    ("GET", "/api/approvals/runs", None, READ, False),
    ("POST", "/api/approvals/runs/run-{role}/approve", {"reason": "fine"}, APPROVE, False),
    ("POST", "/api/approvals/runs/run-{role}-2/deny", {}, APPROVE, False),
    ("GET", "/api/audit/entries", None, READ, False),
    ("GET", "/api/audit/entries/{a}", None, READ, True),
    ("GET", "/api/audit/entries/{a}/proof", None, READ, True),
    ("GET", "/api/audit/checkpoint", None, READ, False),
    ("GET", "/api/audit/verify", None, APPROVE, False),
    ("GET", "/api/drift/models", None, READ, False),
    ("POST", "/api/drift/models/{m}/run", {"input_data": [{"x": 1.0}]}, OPERATE, False),
    ("GET", "/api/drift/history", None, READ, False),
    ("GET", "/api/drift/statistics", None, READ, False),
    ("POST", "/packages?name=model", b"bytes", OPERATE, False),
    ("GET", "/packages/{open}", None, READ, False),
    ("GET", "/packages/{file}/history", None, READ, False),
    ("GET", "/packages/{file}/history/{check}", None, READ, False),
    ("POST", "/packages/{file}/approvals", {"reason": "for {role}"}, OPERATE, False),
    ("GET", "/packages/{file}/approvals", None, READ, False),
    ("GET", "/approvals/{approval}", None, READ, False),
    ("POST", "/approvals/{approval}/decision", {"state": "approved"}, APPROVE, False),
    ("POST", "/api/vecsec/analyze", {"text": "Good morning"}, READ, False),
    ("POST", "/api/vecsec/retrieve", {"query": "leave"}, READ, False),
    ("POST", "/api/vecsec/feedback", {"text": "Good morning {role}", "label": 0}, OPERATE, False),
]  # fmt: skip


def call(client, method, path, body, headers, **names):
    def fill(value):
        if value == "{n}":
            return names["n"]
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        return value.format(**names) if isinstance(value, str) else value

    if isinstance(body, bytes):
        headers = headers | {"Content-Type": "application/octet-stream"}
        return client.request(method, fill(path), content=body, headers=headers)
    return client.request(
        method, fill(path), json=None if body is None else fill(body), headers=headers
    )


def test_the_matrix_covers_every_endpoint(client):
    def shape(method: str, path: str) -> tuple[str, str]:
        return method.upper(), re.sub(r"[^/]*\{[^/]*", "{}", path.partition("?")[0])

    documented = {
        shape(method, path)
        for path, item in client.get("/openapi.json").json()["paths"].items()
        for method in item
    }
    open_to_all = {("GET", "/healthz"), ("GET", "/readyz")}
    assert {shape(method, path) for method, path, *_ in ENDPOINTS} == documented - open_to_all


@pytest.mark.parametrize("role", list(MAY))
def test_each_role_may_exactly_what_it_is_for(client, key, ids, role):
    headers = key(role, "ada")
    for number, (method, path, body, takes, _) in enumerate(ENDPOINTS):
        answer = call(client, method, path, body, headers, role=role, n=number, **ids)
        if takes in MAY[role]:
            assert answer.status_code in (200, 201, 202), (role, method, path, answer.text)
        else:
            assert answer.status_code == 403, (role, method, path, answer.text)
            assert answer.json()["type"] == "/problems/permission-denied"


def test_another_tenants_things_are_not_there(client, key, ids):
    for role in ("viewer", "operator"):
        headers = key(role, "bob")
        for number, (method, path, body, takes, owned) in enumerate(ENDPOINTS):
            if owned and takes in MAY[role]:
                answer = call(client, method, path, body, headers, role=role, n=number, **ids)
                assert answer.status_code == 404, (role, method, path, answer.text)
    assert client.get("/api/agent/instances", headers=key("viewer", "bob")).json() == []


def test_without_a_key_every_endpoint_is_closed(client, ids):
    for method, path, body, _, _ in ENDPOINTS:
        assert call(client, method, path, body, {}, role="x", n=0, **ids).status_code == 401


def test_a_key_bound_to_one_agent_knows_no_other_and_trying_counts_against_it(client, key, ids):
    other = AgentManagementService().create_instance("other", owner_id="ada").instance_id
    SecurityMonitoringService().attach_security_layer_to_instance(other, "default")
    headers = key("operator", "ada", instance_id=other)
    assert client.get(f"/api/security/instances/{other}/profile", headers=headers).is_success
    refused = client.get(f"/api/security/instances/{ids['i']}/profile", headers=headers)
    assert refused.status_code == 404
    (violation,) = SecurityMonitoringService().get_violations(other)
    assert violation.violation_type == "foreign_rows"


def test_an_ended_key_used_for_an_instance_is_evidence_about_it(client, key, ids, database):
    headers = key("operator", "ada")
    with database.admin() as admin:
        admin.execute("UPDATE secmon.api_keys SET expires_at = now()")
    client.post(
        f"/api/security/instances/{ids['i']}/log-activity", json={"action": "a"}, headers=headers
    )
    (violation,) = SecurityMonitoringService().get_violations(str(ids["i"]))
    assert violation.violation_type == "invalid_credential"


def test_an_ended_key_is_noted_once_a_minute_and_fills_nothing(client, key, ids, database):
    headers = key("operator", "ada")
    with database.admin() as admin:
        admin.execute("UPDATE secmon.api_keys SET expires_at = now()")
    for _ in range(5):
        client.get(f"/api/security/instances/{ids['i']}/profile", headers=headers)
    assert len(SecurityMonitoringService().get_violations(str(ids["i"]))) == 1


def test_a_key_bound_to_one_agent_sees_no_other_in_any_list(client, key, ids):
    security, agents = SecurityMonitoringService(), AgentManagementService()
    mine = agents.create_instance("mine", owner_id="ada").instance_id
    security.attach_security_layer_to_instance(mine, "default")
    for instance in (mine, ids["i"]):
        security.log_instance_activity(instance, {"action": "a", "output": "<script>"})
    execution = agents.execute_workflow_with_sub_workflows(ids["w"], instance_id=ids["i"])
    headers = key("operator", "ada", instance_id=mine)
    for path in ("/api/agent/instances", "/api/violations"):
        assert {row["instance_id"] for row in client.get(path, headers=headers).json()} == {mine}
    assert client.get("/api/approvals/runs", headers=headers).json() == []
    for path in (
        f"/api/agent/executions/{execution.execution_id}",
        f"/api/audit/entries/{ids['a']}",
    ):
        assert client.get(path, headers=headers).status_code == 404
    assert client.get("/api/audit/entries", headers=headers).json() == []
    made = client.post("/api/agent/instances", json={"name": "another"}, headers=headers)
    assert made.status_code == 403
    path = f"/api/agent/workflows/{ids['w']}/execute-with-subs"
    ran = client.post(path, json={}, headers=headers)
    assert ran.json()["instance_id"] == mine
    assert client.get(ran.headers["location"], headers=headers).is_success
    assert client.post(f"/api/security/instances/{mine}/check", headers=headers).is_success


@pytest.mark.parametrize("role", ["approver", "admin"])
def test_no_agents_own_key_sees_everyones_rows_or_decides(key, ids, role):
    with pytest.raises(InvalidInputError, match="viewer or operator"):
        key(role, "bot", instance_id=ids["i"])


def test_loosening_a_layer_takes_an_administrator(client, key, ids):
    path = f"/api/security/instances/{ids['i']}/attach-layer"
    operator = key("operator", "ada")
    assert client.post(path, json={"layer_id": "strict"}, headers=operator).is_success
    assert client.post(path, json={"layer_id": "default"}, headers=operator).status_code == 403
    assert client.post(path, json={"layer_id": "default"}, headers=key("admin", "root")).is_success
