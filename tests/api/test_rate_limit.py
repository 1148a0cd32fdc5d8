from __future__ import annotations

import threading

import pytest

from secmon_dagster.database import Role, connect
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService
from secmon_dagster.settings import get_settings


@pytest.fixture
def few_requests(monkeypatch):
    monkeypatch.setenv("SECMON_API_REQUESTS_PER_MINUTE", "5")
    get_settings.cache_clear()


def test_the_budget_is_told_with_every_answer_and_its_end_with_retry_after(
    few_requests, client, key
):
    headers = key("viewer")
    answers = [client.get("/api/security/layers", headers=headers) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[0].headers["ratelimit"] == '"default";r=4;t=60'
    assert answers[0].headers["ratelimit-policy"] == '"default";q=5;w=60'
    assert answers[5].headers["ratelimit"].startswith('"default";r=0;t=')
    assert 1 <= int(answers[5].headers["retry-after"]) <= 60
    assert answers[5].json()["type"] == "/problems/rate-limited"
    assert client.get("/api/security/layers", headers=key("viewer")).status_code == 200


def test_a_bound_key_has_the_budget_of_its_instances_layer(client, key):
    instance = AgentManagementService().create_instance("bot", owner_id="ada").instance_id
    SecurityMonitoringService().attach_security_layer_to_instance(instance, "strict")
    answer = client.get("/api/security/layers", headers=key("operator", instance_id=instance))
    assert answer.headers["ratelimit-policy"] == '"default";q=30;w=60'


def test_an_instance_over_its_layers_rate_is_told_when_to_come_back(client, key):
    security = SecurityMonitoringService()
    layer = security.create_security_layer("slow", config={"max_requests_per_minute": 1})
    instance = AgentManagementService().create_instance("bot", owner_id="ada").instance_id
    security.attach_security_layer_to_instance(instance, layer.layer_id)
    path, headers = f"/api/security/instances/{instance}/log-activity", key("operator")
    assert client.post(path, json={"action": "a"}, headers=headers).status_code == 201
    refused = client.post(path, json={"action": "a"}, headers=headers | {"Idempotency-Key": "once"})
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/instance-throttled")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert [v.violation_type for v in security.get_violations(instance)] == ["rate_limit_exceeded"]


def test_an_agents_own_key_that_is_held_back_is_evidence_about_it_once_a_minute(client, key):
    security = SecurityMonitoringService()
    layer = security.create_security_layer("slow", config={"max_requests_per_minute": 1})
    instance = AgentManagementService().create_instance("bot", owner_id="ada").instance_id
    security.attach_security_layer_to_instance(instance, layer.layer_id)
    path, headers = f"/api/security/instances/{instance}", key("operator", instance_id=instance)
    answers = [client.get(f"{path}/profile", headers=headers).status_code for _ in range(4)]
    assert answers == [200, 429, 429, 429]
    assert [v.violation_type for v in security.get_violations(instance)] == ["rate_limit_exceeded"]
    assert security.run_security_checks(instance)[3].status == "warning"


def hit(connection, limit: int):
    return connection.execute("SELECT * FROM rate_limit_hit('b', %s)", (limit,)).fetchone()


def test_concurrent_callers_together_get_exactly_the_limit(database):
    allowed = []

    def caller() -> None:
        with connect(Role.SERVICE, autocommit=True) as connection:
            allowed.extend(hit(connection, 100)[0] for _ in range(20))

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(allowed), sum(allowed)) == (160, 100)


def test_the_window_slides(database):
    with connect(Role.SERVICE, autocommit=True) as connection:
        for _ in range(3):
            assert hit(connection, 3)[0]
        assert not hit(connection, 3)[0]
        connection.execute(
            "UPDATE rate_limit_windows SET hits = ARRAY[now() - interval '61 s', "
            "now() - interval '40 s', now() - interval '1 s']"
        )
        allowed, remaining, reset = hit(connection, 3)
        assert (allowed, remaining) == (True, 0)
        assert 19 < reset <= 20


def test_a_lowered_limit_counts_what_was_already_spent(database):
    with connect(Role.SERVICE, autocommit=True) as connection:
        for _ in range(5):
            hit(connection, 10)
        allowed, remaining, reset = hit(connection, 2)
        assert (allowed, remaining) == (False, 0)
        assert 0 < reset <= 60
