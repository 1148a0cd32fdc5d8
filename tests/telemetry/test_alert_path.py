"""Alerts from the act that causes them to the person: Prometheus, Alertmanager, webhook, mail."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from secmon_dagster import audit, gate
from secmon_dagster.cli.metrics import app
from secmon_dagster.orchestration import audit_watch
from secmon_dagster.orchestration.alerts import Alert, AppriseTarget, DeliveryError
from secmon_dagster.telemetry import Exporter
from secmon_dagster.telemetry.dashboards import DASHBOARDS
from tests.conftest import Database
from tests.receivers import Received, mailbox, webhook

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
MISSING = [
    program
    for program in ("prometheus", "prometheus-alertmanager")
    if shutil.which(program) is None
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(*words: str) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True)
class Watch:
    """A running Prometheus and Alertmanager, set up as ``deploy/monitoring`` says but for their
    addresses and their patience."""

    prometheus: str
    hook: Received
    mails: Received

    def ask(self, query: str) -> list[dict[str, object]]:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, object]] = answer["data"]["result"]
        return found

    def until(self, query: str, seconds: float = 60.0) -> None:
        """Until a query has an answer."""
        late = time.monotonic() + seconds
        while time.monotonic() < late:
            try:
                if self.ask(query):
                    return
            except (httpx.HTTPError, ValueError):
                pass  # not listening, or not ready yet
            time.sleep(0.2)
        raise AssertionError(f"no answer to {query}")


def _configure(tmp_path: Path, exporter: int, manager: int, hook: int, mail: int) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules" / "*.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter}"]}]
    managers = [{"static_configs": [{"targets": [f"127.0.0.1:{manager}"]}]}]
    config["alerting"]["alertmanagers"] = managers
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    told = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    told["route"] |= {"group_wait": "0s"}
    receivers = {receiver["name"]: receiver for receiver in told["receivers"]}
    (tmp_path / "webhook.url").write_text(f"http://127.0.0.1:{hook}/services/T0/B0/x")
    receivers["webhook"]["slack_configs"][0]["api_url_file"] = str(tmp_path / "webhook.url")
    to = receivers["mail"]["email_configs"][0]
    to |= {"smarthost": f"127.0.0.1:{mail}", "require_tls": False}
    del to["auth_username"], to["auth_password_file"]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(told))


@pytest.fixture
def watch(database: Database, tmp_path: Path) -> Iterator[Watch]:
    with ExitStack() as open_:
        hook, mails = open_.enter_context(webhook()), open_.enter_context(mailbox())
        exporter = Exporter("127.0.0.1", 0, interval=0.5)
        exporter.collector.refresh()
        port, manager = _free_port(), _free_port()
        _configure(tmp_path, exporter.start(), manager, hook.port, mails.port)
        open_.callback(exporter.stop)
        open_.enter_context(
            _running(
                "prometheus-alertmanager", f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/am", f"--web.listen-address=127.0.0.1:{manager}",
                "--cluster.listen-address=",
            )
        )  # fmt: skip
        open_.enter_context(
            _running(
                "prometheus", f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
            )
        )  # fmt: skip
        watch = Watch(f"http://127.0.0.1:{port}", hook, mails)
        # An increase needs a before.
        watch.until("count_over_time(secmon_gate_blocked_total[1m]) >= 2")
        yield watch


def _told(watch: Watch, alert: str) -> str:
    """What the webhook got about an alert, as Slack would show it."""
    body = watch.hook.wait(lambda post: alert in json.dumps(post), 60)
    assert set(body) >= {"attachments"}
    return json.dumps(body)


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_blocked_artifact_reaches_a_webhook_and_the_documents_queries_and_export_work(
    watch: Watch, tmp_path: Path
) -> None:
    hostile = tmp_path / "forecast.pkl"
    hostile.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    keeper = gate.Gatekeeper(enqueue=audit.enqueue)
    artifact = keeper.register(hostile, name="forecast", type="model", uploaded_by="ann")
    assert not keeper.check(artifact.id, user_id="ann").allowed
    assert "ArtifactBlocked" in _told(watch, "ArtifactBlocked")

    url = f"{watch.prometheus}/api/v1/query?query=vecsec_baseten_api_calls_total"
    printed = subprocess.run(["curl", "-s", url], capture_output=True, text=True).stdout
    statuses = {row["metric"]["status"] for row in json.loads(printed)["data"]["result"]}
    assert statuses == {"success", "failed"}
    for query in (
        "rate(vecsec_baseten_api_calls_total[5m])",
        'rate(vecsec_attacks_blocked_total{type="prompt_injection"}[5m])',
        "vecsec_baseten_credits_remaining",
    ):
        assert watch.ask(query), query
    watch.ask("vecsec_inference_duration_seconds")  # valid; an average of nothing is no number
    for panels in DASHBOARDS.values():
        for expression, _ in (query for panel in panels[1] for query in panel.queries):
            watch.ask(re.sub(r"\$__(rate_interval|range)", "1m", expression))

    start = datetime.now(UTC) - timedelta(minutes=5)
    words = ["export", "--start-time", start.isoformat(), "--step", "1", "--metric",
             "secmon_gate_blocked_total", "--prometheus", watch.prometheus,
             "-o", str(tmp_path / "out.csv")]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out.csv").open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert (values[0], values[-1]) == (0.0, 1.0)


def _memory_limit(database: Database, home: Path, folder: Path) -> None:
    """A run over its limit, as Dagster starts it."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    subprocess.run(
        [sys.executable, "-m", "dagster", "job", "execute", "-m", "secmon_dagster.definitions",
         "-j", "memory_limit_drill"],
        env={**os.environ, "DAGSTER_HOME": str(folder), "SECMON_HOME": str(home),
             "SECMON_DATABASE_URL": database.url},
        capture_output=True, timeout=240,
    )  # fmt: skip


def _broken_chain(database: Database, home: Path, folder: Path) -> None:
    """An entry rewritten by the server's owner, and a verification that finds it."""
    chain = audit.get_audit_logger()
    chain.append_entry(action="MODEL_RELEASED", actor="ann", resource_type="model")
    with database.admin() as connection:
        connection.execute("ALTER EVENT TRIGGER secmon_audit_ddl DISABLE")
        connection.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        for (partition,) in connection.execute(
            """SELECT relid::regclass::text FROM pg_partition_tree('secmon.audit_entries')
                WHERE isleaf"""
        ).fetchall():
            connection.execute(f"ALTER TABLE {partition} DISABLE TRIGGER ALL")
        connection.execute("UPDATE secmon.audit_entries SET actor = 'eve' WHERE seq = 1")
    found = chain.verification()
    assert found.verdict == "tampered"
    audit_watch.record(found)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize(
    ("act", "alert", "mailed"),
    [(_memory_limit, "LimitViolated", False), (_broken_chain, "AuditChainBroken", True)],
)
def test_other_violations_reach_people_too(
    watch: Watch,
    database: Database,
    home: Path,
    tmp_path: Path,
    act: Callable[[Database, Path, Path], None],
    alert: str,
    mailed: bool,
) -> None:
    act(database, home, tmp_path / "dagster")
    assert alert in _told(watch, alert)
    if mailed:
        mail = watch.mails.wait(lambda mail: alert in mail["Subject"], 30)
        assert mail["X-Envelope-To"] == "security@example.org"


ALERT = Alert("id-1", "drift", "churn", "raised", "CRITICAL", {"raised": [
    {"drift_type": "input", "name": "amount", "value": 2.5, "level": "CRITICAL"}]})  # fmt: skip


def test_an_alert_of_the_platforms_own_arrives_by_mail() -> None:
    with mailbox() as mails:
        url = f"mailto://127.0.0.1:{mails.port}?from=secmon@example.org&to=ann@example.org"
        AppriseTarget(url).send(ALERT)
        (mail,) = mails.items
    assert mail["Subject"] == "[CRITICAL] drift alert raised for churn"
    assert mail["X-Envelope-To"] == "ann@example.org"
    assert "input amount: 2.5 (CRITICAL)" in mail.get_body(("plain", "html")).get_content()


def test_a_mailbox_that_refuses_is_a_failed_delivery_to_try_again() -> None:
    with mailbox() as mails:
        url = f"mailto://127.0.0.1:{mails.port}?from=secmon@example.org&to=nobody@refused.test"
        with pytest.raises(DeliveryError, match="did not take the alert"):
            AppriseTarget(url).send(ALERT)
        assert mails.items == []
