"""Rules, configuration and dashboards, checked by promtool; an alert from end to end."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml

from secmon_dagster.telemetry import METRICS, Exporter, Kind
from secmon_dagster.telemetry.dashboards import DASHBOARDS, build
from tests.conftest import Database

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def _promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    _promtool("check", "config", "prometheus.yml")


@promtool
def test_every_rule_fires_when_it_should_and_not_before() -> None:
    _promtool("test", "rules", "tests/rules_test.yml")


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_checked_in_dashboard_is_the_generated_one(uid: str) -> None:
    title, panels = DASHBOARDS[uid]
    assert (FOLDER / "dashboards" / f"{uid}.json").read_text() == build(uid, title, panels)


def _expressions() -> list[str]:
    panels = [panel for _, panels in DASHBOARDS.values() for panel in panels]
    return [expression for panel in panels for expression, _ in panel.queries]


@promtool
def test_every_query_of_every_panel_is_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{place}", "expr": re.sub(r"\$__(rate_interval|range)", "5m", expression)}
        for place, expression in enumerate(_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(file))


def _known_names() -> set[str]:
    names = {"up"}
    for metric in METRICS.values():
        parts = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        names |= {metric.name + part for part in parts}
    return names


def test_every_metric_of_every_panel_and_rule_exists() -> None:
    rules = [
        rule["expr"]
        for file in (FOLDER / "rules").glob("*.yml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]
    named = re.compile(r"\b(?:vecsec|secmon)_\w+|\bup\b")
    for expression in _expressions() + rules:
        found = set(named.findall(re.sub(r'"[^"]*"', "", expression)))
        assert found
        assert found <= _known_names(), expression


def test_every_metric_but_the_exporters_own_is_on_some_dashboard() -> None:
    shown = " ".join(_expressions())
    own = {"secmon_collect_seconds", "secmon_collect_age_seconds", "vecsec_inference_success_total",
           "secmon_instance_checks_total"}  # fmt: skip
    assert [name for name in METRICS if name not in shown and name not in own] == []


def test_grafana_gets_a_password_of_its_own_and_shows_it_once(tmp_path: Path) -> None:
    file = tmp_path / "password"
    env = {"PATH": "/usr/bin:/bin", "SECMON_GRAFANA_PASSWORD_FILE": str(file),
           "SECMON_GRAFANA_RUN": "/bin/true"}  # fmt: skip
    words = ["sh", str(FOLDER / "grafana-start.sh")]
    first = subprocess.run(words, env=env, capture_output=True, text=True)
    again = subprocess.run(words, env=env, capture_output=True, text=True)
    assert file.read_text().strip() in first.stdout
    assert len(file.read_text().strip()) >= 32
    assert (file.stat().st_mode & 0o777, again.stdout) == (0o600, "")


@pytest.mark.parametrize("password", ["vecsec_admin", "admin"])
def test_a_published_password_is_refused(password: str) -> None:
    done = subprocess.run(
        ["sh", str(FOLDER / "grafana-start.sh")],
        env={"PATH": "/usr/bin:/bin", "GF_SECURITY_ADMIN_PASSWORD": password,
             "SECMON_GRAFANA_RUN": "/bin/true"},
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_violation_reaches_a_webhook_through_a_real_prometheus(
    database: Database, tmp_path: Path
) -> None:
    received: list[dict[str, object]] = []
    arrived = threading.Event()

    class Alertmanager(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alerts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.extend(alerts)
            if any(alert["labels"]["alertname"] == "ArtifactBlocked" for alert in alerts):
                arrived.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alertmanager)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    exporter = Exporter("127.0.0.1", 0, interval=0.5)
    exporter.collector.refresh()
    target, port = f"127.0.0.1:{exporter.start()}", _free_port()
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules" / "*.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    config["alerting"]["alertmanagers"] = [
        {"static_configs": [{"targets": [f"127.0.0.1:{hook.server_port}"]}]}
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path}/prometheus.yml",
         f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    query = f"http://127.0.0.1:{port}/api/v1/query"
    try:
        _until_scraped(query)
        with database.admin() as connection:
            connection.execute(
                """INSERT INTO secmon.monitoring_history (check_id, artifact_id, script_name,
                     exit_code, action_taken, execution_duration_ms, script_digest, policy_digest,
                     isolation)
                   VALUES ('c1', 'a1', 'default_check.py', 2, 'blocked', 40, 'd', 'p', 'rlimits')"""
            )
        assert arrived.wait(60), received
        # The document's own look-up, by curl.
        printed = subprocess.run(
            ["curl", "-s", f"{query}?query=vecsec_baseten_api_calls_total"],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        statuses = {row["metric"]["status"] for row in json.loads(printed)["data"]["result"]}
        assert statuses == {"success", "failed"}
        for expression in (
            "rate(vecsec_baseten_api_calls_total[5m])",
            'rate(vecsec_attacks_blocked_total{type="prompt_injection"}[5m])',
            "vecsec_baseten_credits_remaining",
            "vecsec_inference_duration_seconds",
        ):
            answer = httpx.get(query, params={"query": expression}).json()
            assert answer["status"] == "success"
            if "credits" in expression or "rate" in expression:
                assert answer["data"]["result"], expression
    finally:
        process.terminate()
        process.wait(20)
        exporter.stop()
        hook.shutdown()
        hook.server_close()


def _until_scraped(query: str) -> None:
    """Until two scrapes have been taken: an increase needs a before."""
    until = time.monotonic() + 60
    asked = {"query": "count_over_time(secmon_gate_blocked_total[1m])"}
    while time.monotonic() < until:
        try:
            result = httpx.get(query, params=asked).json()["data"]["result"]
        except httpx.HTTPError:
            result = []
        if result and float(result[0]["value"][1]) >= 2:
            return
        time.sleep(0.2)
    raise AssertionError("Prometheus never scraped the exporter twice")
