"""Delivery of alerts, to a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.orchestration.alerts import (
    ATTEMPTS,
    Alert,
    AppriseTarget,
    DeliveryError,
    DeliveryReport,
    Webhook,
    deliver_waiting,
    targets,
)
from secmon_dagster.settings import get_settings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ALERT = Alert("id-1", "drift", "churn", "raised", "CRITICAL", {"raised": [
    {"drift_type": "input", "name": "amount", "value": 2.5, "level": "CRITICAL"}]})  # fmt: skip


@dataclass
class Server:
    """A webhook receiver whose answers the test chooses."""

    url: str = ""
    status: int = 200
    location: str | None = None
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Server]:
    state = Server()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append((dict(self.headers), body))
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    listening = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{listening.server_port}/services/T0/B0/secret-token"
    yield state
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def waiting(database: Any) -> str:
    with transaction() as connection:
        row = connection.execute(
            """INSERT INTO alert_outbox (source, subject_id, event, level, payload, audit_entry_id,
                                         created_at, next_attempt_at)
               VALUES ('drift', 'churn', 'raised', 'CRITICAL', %s, 'e1', %s, %s)
               RETURNING alert_id""",
            (Jsonb(dict(ALERT.payload)), NOW, NOW),
        ).fetchone()
    assert row is not None
    return str(row[0])


def outbox() -> tuple[Any, ...]:
    with transaction() as connection:
        row = connection.execute(
            """SELECT attempts, delivered_at, given_up_at, next_attempt_at, last_error
                 FROM alert_outbox"""
        ).fetchone()
    assert row is not None
    return tuple(row)


def test_a_webhook_gets_slack_compatible_signed_json(
    receiver: Server,
) -> None:
    Webhook(receiver.url, secret="shared", allow_private=True).send(ALERT)
    ((headers, body),) = receiver.requests
    content = json.loads(body)
    assert content["text"].splitlines() == [
        "[CRITICAL] drift alert raised for churn",
        "• input amount: 2.5 (CRITICAL)",
    ]
    assert content["metadata"]["event_payload"]["alert_id"] == "id-1"
    moment, signature = (part.split("=")[1] for part in headers["X-Secmon-Signature"].split(","))
    expected = hmac.new(b"shared", moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signature, expected)
    assert abs(int(moment) - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://localhost:9/hook",
        "http://[::1]/hook",
        "http://10.0.0.8/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/hook",
        "http://0.0.0.0/hook",
        "http://2130706433/hook",
    ],
)
def test_a_webhook_into_a_private_network_is_refused(url: str) -> None:
    with pytest.raises(DeliveryError, match="a private address"):
        Webhook(url).send(ALERT)


def test_a_webhook_of_another_scheme_is_refused() -> None:
    with pytest.raises(DeliveryError, match="no http or https URL"):
        Webhook("file:///etc/passwd").send(ALERT)
    with pytest.raises(DeliveryError, match="a private address"):
        AppriseTarget("json://127.0.0.1/hook").send(ALERT)


def test_a_redirect_is_not_followed(receiver: Server) -> None:
    receiver.status, receiver.location = 302, "http://169.254.169.254/"
    with pytest.raises(DeliveryError, match="answered 302"):
        Webhook(receiver.url, allow_private=True).send(ALERT)
    assert len(receiver.requests) == 1


def test_an_alert_is_delivered_once(receiver: Server, waiting: str) -> None:
    hook = Webhook(receiver.url, allow_private=True)
    assert deliver_waiting([hook], now=NOW) == DeliveryReport(delivered=1)
    assert deliver_waiting([hook], now=NOW + timedelta(days=1)) == DeliveryReport()
    assert [headers["X-Secmon-Alert-Id"] for headers, _ in receiver.requests] == [waiting]


def test_a_server_that_is_down_is_tried_again_with_backoff(receiver: Server, waiting: str) -> None:
    hook = Webhook(receiver.url, allow_private=True)
    receiver.status = 503
    assert deliver_waiting([hook], now=NOW) == DeliveryReport(to_retry=1)
    assert deliver_waiting([hook], now=NOW + timedelta(seconds=4)) == DeliveryReport()
    assert deliver_waiting([hook], now=NOW + timedelta(seconds=5)) == DeliveryReport(to_retry=1)
    assert outbox()[3] == NOW + timedelta(seconds=15)
    receiver.status = 200
    assert deliver_waiting([hook], now=NOW + timedelta(minutes=1)) == DeliveryReport(delivered=1)


def test_a_target_that_has_the_alert_is_not_told_again_when_another_fails(
    receiver: Server, waiting: str
) -> None:
    good = Webhook(receiver.url, allow_private=True)
    bad = Webhook("http://127.0.0.1:9/closed", allow_private=True)
    assert deliver_waiting([good, bad], now=NOW) == DeliveryReport(to_retry=1)
    assert deliver_waiting([good, bad], now=NOW + timedelta(hours=1)) == DeliveryReport(to_retry=1)
    assert len(receiver.requests) == 1


def test_a_target_that_is_written_wrongly_keeps_the_alert_from_no_other(
    receiver: Server, waiting: str
) -> None:
    wrong = Webhook("http://127.0.0.1:99999/hook", allow_private=True)
    good = Webhook(receiver.url, allow_private=True)
    assert deliver_waiting([wrong, good], now=NOW) == DeliveryReport(to_retry=1)
    assert len(receiver.requests) == 1


def test_after_the_last_attempt_an_alert_is_given_up_and_says_why(waiting: str) -> None:
    bad = Webhook("http://127.0.0.1:9/closed", allow_private=True)
    for attempt in range(ATTEMPTS):
        last = deliver_waiting([bad], now=NOW + timedelta(hours=2 * attempt))
    assert last == DeliveryReport(given_up=1)
    assert outbox()[4] == "the alert webhook at 127.0.0.1 failed: ConnectError"


def test_without_a_target_an_alert_is_given_up_at_once(waiting: str) -> None:
    assert deliver_waiting([], now=NOW) == DeliveryReport(given_up=1)


def test_an_alert_in_one_daemons_hands_is_not_taken_by_another(
    receiver: Server, waiting: str
) -> None:
    taken: list[DeliveryReport] = []

    class Slow(Webhook):
        def send(self, alert: Alert) -> None:
            taken.append(deliver_waiting([Webhook(receiver.url, allow_private=True)], now=NOW))
            super().send(alert)

    deliver_waiting([Slow(receiver.url, allow_private=True)], now=NOW)
    assert taken == [DeliveryReport()]
    assert len(receiver.requests) == 1


def test_the_settings_name_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITORING_ALERT_WEBHOOK", "https://slack.example.com/hooks/x")
    monkeypatch.setenv("SECMON_ALERT_URLS", "mailto://user:pass@example.com, json://example.com")
    get_settings.cache_clear()
    found = targets(get_settings())
    assert [type(each).__name__ for each in found] == ["Webhook", "AppriseTarget", "AppriseTarget"]
    assert len({each.key for each in found}) == 3


def test_a_target_apprise_does_not_know_is_refused() -> None:
    with pytest.raises(DeliveryError, match="apprise knows no ghost:// target"):
        AppriseTarget("ghost://somewhere").send(ALERT)


def test_an_apprise_url_reaches_a_real_server(receiver: Server) -> None:
    host = receiver.url.removeprefix("http://")
    AppriseTarget(f"json://{host}", allow_private=True).send(ALERT)
    assert json.loads(receiver.requests[0][1])["title"] == ALERT.title


def test_the_secret_part_of_a_webhook_appears_nowhere(
    receiver: Server, waiting: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="secmon_dagster")
    receiver.status = 500
    deliver_waiting([Webhook(receiver.url, secret="shared", allow_private=True)], now=NOW)
    with transaction() as connection:
        row = connection.execute("SELECT alert_outbox::text FROM alert_outbox").fetchone()
    ours = [record.getMessage() for record in caplog.records if "secmon" in record.name]
    assert "secret-token" not in str(row) + "".join(ours)
