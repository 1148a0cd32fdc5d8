"""Downloads through the gate: every row of the status table, conditions, ranges, approvals."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import skops.io
from sklearn.dummy import DummyClassifier

from secmon_dagster.api.packages import gatekeeper
from secmon_dagster.gate import Gatekeeper
from secmon_dagster.settings import get_settings

PROBLEM = "application/problem+json"


class Innocent:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture(autouse=True)
def fresh_gate():
    gatekeeper.cache_clear()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.skops"
    skops.io.dump(DummyClassifier().fit([[0], [1]], [0, 1]), path)
    return path


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder of one's own scripts; returns a function that writes one."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.setenv("SECURITY_SCRIPTS_DIR", str(folder))
    monkeypatch.setenv("MONITORING_TIMEOUT", "4")
    get_settings.cache_clear()

    def write(source: str, name: str = "check.py") -> str:
        (folder / name).write_text(source)
        return name

    return write


def add(model, **options):
    return Gatekeeper().register(model, "model", "model", "ann", **options)


def test_a_model_that_passes_is_sent_with_its_digest(client, key, model):
    artifact = add(model)
    answer = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    content = model.read_bytes()
    digest = hashlib.sha256(content)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["etag"] == f'"sha256-{digest.hexdigest()}"'
    expected = base64.b64encode(digest.digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{expected}:"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-gate-verdict"] == "allow"


def test_a_blocked_artifact_is_403_with_the_documented_body(client, key, tmp_path):
    path = tmp_path / "forecast.pkl"
    path.write_bytes(pickle.dumps(Innocent()))
    artifact = Gatekeeper().register(path, "forecast", "model", "ann")
    answer = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM)
    assert body["error"] == "DownloadBlocked"
    assert body["message"] == "Artifact failed security monitoring check"
    assert body["monitoring"]["exit_code"] == 2
    assert body["monitoring"]["action"] == "blocked"
    assert body["monitoring"]["findings"]
    assert body["type"] == "/problems/artifact-blocked"
    described = answer.headers["link"].partition(">")[0].strip("<")
    assert client.get(described, headers=key("viewer")).json()["exit_code"] == 2


def test_a_warning_is_sent_and_says_so(client, key, scripts, model):
    said = '{"findings": [{"rule": "old"}], "recommendation": "warn"}'
    name = scripts(f"import sys\nprint('{said}')\nsys.exit(1)")
    artifact = add(model, monitoring_script=name)
    answer = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    assert (answer.status_code, answer.headers["x-gate-verdict"]) == (200, "warn")
    assert "describedby" in answer.headers["link"]


STATUSES = {
    0: (200, None), 1: (200, None), 2: (403, "artifact-blocked"), 3: (403, "artifact-blocked"),
    77: (403, "artifact-blocked"), 254: (403, "artifact-blocked"), 124: (503, "check-timeout"),
    127: (500, "gate-misconfigured"), 255: (500, "gate-misconfigured"),
}  # fmt: skip


@pytest.mark.parametrize("language", ["py", "js"])
def test_the_status_of_each_exit_code(client, key, scripts, model, language):
    if language == "js" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    answered = {}
    for code in STATUSES:
        said = json.dumps({"findings": [], "recommendation": {0: "allow", 1: "warn"}.get(code)})
        source = {
            "py": f"import sys\nsys.stderr.write('secret')\nprint('{said}')\nsys.exit({code})",
            "js": f"console.error('secret'); console.log('{said}'); process.exit({code})",
        }[language]
        artifact = add(model, monitoring_script=scripts(source, f"check-{code}.{language}"))
        answer = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
        refused = answer.status_code != 200
        problem = answer.json()["type"].removeprefix("/problems/") if refused else None
        answered[code] = (answer.status_code, problem)
        assert ("retry-after" in answer.headers) == (answer.status_code == 503)
        assert (answer.content == model.read_bytes()) == (not refused)
        assert not refused or "secret" not in answer.text
    assert answered == STATUSES


@pytest.mark.parametrize(
    ("source", "status", "problem"),
    [
        ("import time\ntime.sleep(60)", 503, "check-timeout"),
        ("import sys\nsys.stderr.write('secret')\nprint('x')", 500, "gate-misconfigured"),
        ("import os\nos.abort()", 500, "gate-misconfigured"),
    ],
)
def test_the_status_of_a_script_that_misbehaves(
    client, key, scripts, model, monkeypatch, source, status, problem
):
    name = scripts(source)
    monkeypatch.setenv("MONITORING_TIMEOUT", "0.5" if status == 503 else "4")
    get_settings.cache_clear()
    artifact = add(model, monitoring_script=name)
    answer = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{problem}")
    assert "secret" not in answer.text


def test_what_is_unknown_is_404_and_who_is_unknown_401(client, key):
    assert client.get("/packages/nobody", headers=key("viewer")).status_code == 404
    assert client.get("/packages/nobody").status_code == 401


def test_the_gate_comes_before_conditions(client, key, model):
    artifact = add(model)
    first = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    seen = {**key("viewer"), "If-None-Match": first.headers["etag"]}
    assert client.get(f"/packages/{artifact.id}", headers=seen).status_code == 304
    model.write_bytes(pickle.dumps(Innocent()))
    assert client.get(f"/packages/{artifact.id}", headers=seen).status_code == 403


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [("bytes=0-9", 206, 0, 10), ("bytes=5-", 206, 5, None), ("bytes=-7", 206, -7, None),
     ("bytes=0-999999999", 206, 0, None), ("bytes=9-2", 200, 0, None), ("pages=1", 200, 0, None),
     ("bytes=0-1,4-5", 200, 0, None)],
)  # fmt: skip
def test_ranges(client, key, model, asked, status, first, last):
    artifact, content = add(model), model.read_bytes()
    answer = client.get(f"/packages/{artifact.id}", headers={**key("viewer"), "Range": asked})
    assert (answer.status_code, answer.content) == (status, content[first:last])


def test_a_range_outside_the_file_is_416(client, key, model):
    artifact = add(model)
    headers = {**key("viewer"), "Range": "bytes=99999999-"}
    answer = client.get(f"/packages/{artifact.id}", headers=headers)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{model.stat().st_size}"


def test_an_upload_is_stored_checked_and_downloaded(client, key, model):
    made = client.post(
        "/packages", params={"name": "fresh", "file_name": "model.skops"}, headers=key(),
        content=model.read_bytes(),
    )  # fmt: skip
    assert made.status_code == 201, made.text
    answer = client.get(made.headers["location"], headers=key("viewer"))
    assert answer.content == model.read_bytes()
    told = client.get(made.headers["location"] + "/history", headers=key("viewer")).json()
    assert [check["action"] for check in told] == ["allowed"]


def test_who_uploads_does_not_choose_a_weaker_check(client, key):
    options = {"name": "m", "file_name": "m.pkl", "monitoring_script": "default_check.py"}
    sent = {"params": options, "content": pickle.dumps(Innocent())}
    refused = client.post("/packages", headers=key(), **sent)
    assert (refused.status_code, refused.headers["content-type"]) == (403, PROBLEM)
    assert client.post("/packages", headers=key("admin"), **sent).status_code == 201


def test_an_artifact_waits_for_a_second_person(client, key, model):
    artifact = add(model, require_approval=True)
    address = f"/packages/{artifact.id}"
    answer = client.get(address, headers=key("viewer"))
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/approval-required")
    asked = client.post(answer.json()["approval_url"], headers=key(user="bob"))
    assert asked.status_code == 201, asked.text
    decision = asked.headers["location"] + "/decision"
    approve = {"state": "approved"}
    for user in ("bob", "ann"):  # the requester, and the uploader
        refused = client.post(decision, json=approve, headers=key("approver", user=user))
        assert refused.status_code == 403, refused.text
    assert client.post(decision, json=approve, headers=key("viewer", user="eve")).status_code == 403
    stale = {**key("approver", user="eve"), "If-Match": '"v9"'}
    assert client.post(decision, json=approve, headers=stale).status_code == 412
    current = {**key("approver", user="eve"), "If-Match": asked.headers["etag"]}
    assert client.post(decision, json=approve, headers=current).json()["state"] == "approved"
    assert client.get(address, headers=key("viewer")).status_code == 200
    again = client.post(decision, json={"state": "denied"}, headers=key("approver", user="eve"))
    assert again.status_code == 409
    assert (
        client.post(
            decision, json={"state": "revoked"}, headers=key("approver", user="eve")
        ).json()["state"]
        == "revoked"
    )
    assert client.get(address, headers=key("viewer")).status_code == 403


def curl(*arguments: str) -> tuple[int, bytes]:
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", *arguments], capture_output=True, check=True
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_walk_through_against_the_real_server(database, key):
    headers = key("viewer")
    with database.admin() as sql:
        sql.execute("SET search_path = secmon, public")
        sql.execute(
            "INSERT INTO artifacts (id, name, type, url, is_sensitive) VALUES "
            "('1', 'open', 'model', 'http://example.com', FALSE), "
            "('safe001', 'bert-model', 'model', 'http://example.com', TRUE), "
            "('bad001', 'virus-backdoor', 'model', 'http://example.com', TRUE), "
            "('warn001', 'x' || repeat('y', 300), 'model', 'http://example.com', TRUE), "
            "('test999', 'malware-model', 'model', 'http://example.com', TRUE)"
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "secmon_dagster.api.app:create_app",
             "--port", str(port), "--log-level", "warning"],
        )  # fmt: skip
        try:
            base = f"http://localhost:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"{base}/healthz", timeout=2).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "the server did not start"
                    time.sleep(0.2)
            authorization = ("-H", f"Authorization: {headers['Authorization']}")
            statuses = {}
            for artifact in ("1", "safe001", "bad001", "warn001", "test999"):
                statuses[artifact], body = curl(*authorization, f"{base}/packages/{artifact}")
                if artifact == "bad001":
                    refused = json.loads(body)
        finally:
            server.terminate()
            server.wait()
        assert statuses == {"1": 200, "safe001": 200, "bad001": 403, "warn001": 200, "test999": 403}
        assert refused["error"] == "DownloadBlocked"
        assert refused["message"] == "Artifact failed security monitoring check"
        assert refused["monitoring"]["exit_code"] == 2
        told = sql.execute(
            "SELECT artifact_id, action_taken, exit_code FROM monitoring_history ORDER BY 1"
        ).fetchall()
        assert told == [
            ("bad001", "blocked", 2), ("safe001", "allowed", 0), ("test999", "blocked", 2),
            ("warn001", "warned", 1),
        ]  # fmt: skip


DOCUMENTED = """
SELECT mh.id, mh.artifact_id, a.name as artifact_name, mh.script_name, mh.exit_code,
    mh.action_taken, mh.execution_duration_ms, mh.executed_at, mh.user_id
FROM monitoring_history mh JOIN artifacts a ON a.id = mh.artifact_id
ORDER BY mh.executed_at DESC LIMIT 20;
SELECT artifact_id, COUNT(*) as block_count, MAX(executed_at) as last_blocked
FROM monitoring_history WHERE action_taken = 'blocked' GROUP BY artifact_id
ORDER BY block_count DESC;
SELECT script_name, COUNT(*) as executions, AVG(execution_duration_ms) as avg_duration_ms,
    MAX(execution_duration_ms) as max_duration_ms,
    COUNT(CASE WHEN action_taken = 'blocked' THEN 1 END) as blocks,
    COUNT(CASE WHEN action_taken = 'error' THEN 1 END) as errors
FROM monitoring_history GROUP BY script_name;
SELECT user_id, COUNT(*) as downloads_attempted,
    COUNT(CASE WHEN action_taken = 'blocked' THEN 1 END) as blocked,
    COUNT(CASE WHEN action_taken = 'allowed' THEN 1 END) as allowed
FROM monitoring_history WHERE user_id IS NOT NULL GROUP BY user_id
ORDER BY downloads_attempted DESC;
SELECT * FROM monitoring_config;
UPDATE monitoring_config SET value = '10000' WHERE key = 'script_timeout_ms' RETURNING key;
UPDATE monitoring_config SET value = '50000' WHERE key = 'max_output_length' RETURNING key;
UPDATE artifacts SET is_sensitive = TRUE, monitoring_script = 'default-check.js'
WHERE name LIKE '%sensitive%' OR type = 'model' RETURNING id;
DELETE FROM monitoring_history WHERE executed_at < NOW() - INTERVAL '90 days' RETURNING id
"""


def test_the_documented_queries_run_and_count_right(client, key, model, database):
    artifact = add(model)
    client.get(f"/packages/{artifact.id}", headers=key("viewer", user="cid"))
    client.get(f"/packages/{artifact.id}", headers=key("viewer", user="cid"))
    with database.admin() as sql:
        sql.execute("SET search_path = secmon, public")
        answers = [sql.execute(query).fetchall() for query in DOCUMENTED.split(";")]
    assert [row[1] for row in answers[0]] == [artifact.id] * 2
    assert answers[1] == []
    assert answers[2][0][1] == 2
    assert answers[3] == [("cid", 2, 0, 2)]
    assert len(answers[4]) == 7
    assert answers[5:8] == [[("script_timeout_ms",)], [("max_output_length",)], [(artifact.id,)]]
    after = client.get(f"/packages/{artifact.id}", headers=key("viewer"))
    assert after.status_code == 200
