"""Delivery of what waits in ``alert_outbox``: to a webhook, and to any apprise URL (e-mail, …).

An alert is delivered to each target at least once: a target that failed is tried again with
backoff, one that has it is not told twice. Two daemons share the work by leases. A webhook gets
Slack-compatible JSON, signed where a secret is set; it may not point into private networks unless
that is allowed, and it is reached at the very address that was checked.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

import apprise
import httpx
import orjson

from secmon_dagster.database import transaction
from secmon_dagster.errors import SecmonError
from secmon_dagster.settings import Settings

_log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
LEASE = timedelta(seconds=60)
FIRST_BACKOFF = timedelta(seconds=5)
LONGEST_BACKOFF = timedelta(hours=1)
ATTEMPTS = 24
_HTTP_SCHEMES = {"http", "https"}
_APPRISE_HTTP_SCHEMES = {"json", "jsons", "xml", "xmls", "form", "forms"}


class DeliveryError(SecmonError):
    """A target did not take an alert; its text names no secret part of the target."""

    status = 502
    problem_type = "alert-delivery-failed"


@dataclass(frozen=True)
class Alert:
    """One row of the outbox."""

    alert_id: str
    source: str
    subject_id: str
    event: str
    level: str
    payload: Mapping[str, Any]
    delivered_to: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """One line: what happened to whom."""
        return f"[{self.level}] {self.source} alert {self.event} for {self.subject_id}"

    @property
    def text(self) -> str:
        """The title, and the metrics at fault."""
        raised = self.payload.get("raised", [])
        lines = [
            f"• {each['drift_type']} {each['name']}: {each['value']:.4g} ({each['level']})"
            for each in raised
            if each.get("value") is not None
        ]
        return "\n".join([self.title, *lines])


class Target(Protocol):
    """Where alerts go. ``key`` tells targets apart without saying their secret."""

    @property
    def key(self) -> str: ...

    def send(self, alert: Alert) -> None: ...


def _key(kind: str, url: str) -> str:
    return f"{kind}:{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def public_address(host: str, port: int, *, allow_private: bool) -> str:
    """The address to connect to; every address the name has must be public, unless allowed.

    Raises:
        DeliveryError: if the name does not resolve, or leads into a private network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise DeliveryError(f"the alert host {host} has no address") from None
    addresses = [str(each[4][0]) for each in found]
    private = [each for each in addresses if not _is_public(each)]
    if private and not allow_private:
        raise DeliveryError(
            f"the alert host {host} is at {private[0]}, a private address",
            hint="set SECMON_ALERT_ALLOW_PRIVATE_ADDRESSES=true if that is meant",
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not (mapped or parsed).is_multicast


def slack_body(alert: Alert) -> dict[str, Any]:
    """The JSON a Slack-compatible webhook takes; ``metadata`` carries the whole alert."""
    return {
        "text": alert.text,
        "metadata": {
            "event_type": f"{alert.source}_alert",
            "event_payload": {
                "alert_id": alert.alert_id,
                "event": alert.event,
                "level": alert.level,
                "subject_id": alert.subject_id,
                **alert.payload,
            },
        },
    }


def sign(secret: str, moment: int, body: bytes) -> str:
    """``t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">``: checkable, and not replayable."""
    digest = hmac.new(secret.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


@dataclass(frozen=True)
class Webhook:
    """A URL that takes Slack-compatible JSON by POST."""

    url: str
    secret: str | None = None
    allow_private: bool = False

    @property
    def key(self) -> str:
        """Which webhook, without its URL."""
        return _key("webhook", self.url)

    def send(self, alert: Alert) -> None:
        """Post the alert; redirects are not followed.

        Raises:
            DeliveryError: unless the answer is 2xx.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in _HTTP_SCHEMES or not parts.hostname:
            raise DeliveryError("the alert webhook is no http or https URL")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = public_address(parts.hostname, port, allow_private=self.allow_private)
        body = orjson.dumps(slack_body(alert))
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "X-Secmon-Alert-Id": alert.alert_id,
        }
        if self.secret:
            headers["X-Secmon-Signature"] = sign(self.secret, int(time.time()), body)
        host = f"[{address}]" if ":" in address else address
        # The checked address, so that a second look-up can't lead elsewhere; TLS still asks for
        # (and verifies) the name.
        target = parts._replace(netloc=f"{host}:{port}").geturl()
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
                answer = client.post(
                    target,
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": parts.hostname},
                )
        except httpx.HTTPError as failure:
            raise DeliveryError(
                f"the alert webhook at {parts.hostname} failed: {type(failure).__name__}"
            ) from None
        if not answer.is_success:
            raise DeliveryError(
                f"the alert webhook at {parts.hostname} answered {answer.status_code}"
            )


@dataclass(frozen=True)
class AppriseTarget:
    """Any URL that apprise understands: ``mailto://``, ``msteams://``, …"""

    url: str
    allow_private: bool = False

    @property
    def key(self) -> str:
        """Which target, without its URL."""
        return _key("apprise", self.url)

    def send(self, alert: Alert) -> None:
        """Notify through apprise.

        Raises:
            DeliveryError: if apprise does not know the URL or the notification fails.
        """
        parts = urlsplit(self.url)
        if parts.scheme in _APPRISE_HTTP_SCHEMES and parts.hostname:
            public_address(parts.hostname, parts.port or 443, allow_private=self.allow_private)
        notifier = apprise.Apprise()
        if not notifier.add(self.url):
            raise DeliveryError(f"apprise knows no {parts.scheme}:// target of this form")
        kinds = {"CRITICAL": "failure", "WARNING": "warning", "NORMAL": "success"}
        if not notifier.notify(
            title=alert.title, body=alert.text, notify_type=kinds.get(alert.level, "info")
        ):
            raise DeliveryError(f"the {parts.scheme}:// alert target did not take the alert")


def targets(settings: Settings) -> list[Target]:
    """Where the settings send alerts."""
    private = settings.alert_allow_private_addresses
    found: list[Target] = []
    if settings.alert_webhook is not None:
        secret = settings.alert_webhook_secret
        found.append(
            Webhook(
                settings.alert_webhook.get_secret_value(),
                None if secret is None else secret.get_secret_value(),
                private,
            )
        )
    if settings.alert_urls is not None:
        urls = settings.alert_urls.get_secret_value().split(",")
        found.extend(AppriseTarget(url.strip(), private) for url in urls if url.strip())
    return found


@dataclass(frozen=True)
class DeliveryReport:
    """What one round of delivery did, in alerts."""

    delivered: int = 0
    to_retry: int = 0
    given_up: int = 0


def deliver_waiting(
    to: Sequence[Target], *, now: datetime | None = None, limit: int = 50
) -> DeliveryReport:
    """Deliver what is due, oldest first.

    Without any target an alert is given up with that reason: it stays in the outbox, the chain and
    the UI, and is not sent years later when somebody sets a webhook.

    Raises:
        DatabaseError: if the outbox can't be read.
    """
    moment = now or datetime.now(UTC)
    report = DeliveryReport()
    for alert, attempts in _lease(moment, limit):
        report = _add(report, _deliver(alert, attempts, to, moment))
    return report


def _add(one: DeliveryReport, other: DeliveryReport) -> DeliveryReport:
    return DeliveryReport(
        one.delivered + other.delivered,
        one.to_retry + other.to_retry,
        one.given_up + other.given_up,
    )


def _lease(now: datetime, limit: int) -> list[tuple[Alert, int]]:
    """Alerts that are due, now this process's for a minute."""
    with transaction() as connection:
        rows = connection.execute(
            """UPDATE alert_outbox o
                  SET attempts = attempts + 1, next_attempt_at = %(until)s
                 FROM (SELECT alert_id FROM alert_outbox
                        WHERE delivered_at IS NULL AND given_up_at IS NULL
                          AND next_attempt_at <= %(now)s
                        ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) due
                WHERE o.alert_id = due.alert_id
            RETURNING o.alert_id, o.source, o.subject_id, o.event, o.level, o.payload,
                      o.delivered_to, o.attempts, o.created_at""",
            {"until": now + LEASE, "now": now, "limit": limit},
        ).fetchall()
    rows.sort(key=lambda row: row[8])
    return [
        (Alert(row[0], row[1], row[2], row[3], row[4], row[5], frozenset(row[6])), int(row[7]))
        for row in rows
    ]


def _deliver(alert: Alert, attempts: int, to: Sequence[Target], now: datetime) -> DeliveryReport:
    reached, errors = set(alert.delivered_to), []
    for target in to:
        if target.key in reached:
            continue
        try:
            target.send(alert)
        except Exception as failure:
            # Whatever is wrong with one target, the others get the alert. Only our own messages
            # are known to name no secret.
            told = failure.message if isinstance(failure, DeliveryError) else type(failure).__name__
            errors.append(told)
            _log.warning("alert %s: %s", alert.alert_id, told)
        else:
            reached.add(target.key)
    if not to:
        errors.append("no alert target is configured")
    give_up = bool(errors) and (not to or attempts >= ATTEMPTS)
    backoff = min(FIRST_BACKOFF * 2 ** (attempts - 1), LONGEST_BACKOFF)
    with transaction() as connection:
        connection.execute(
            """UPDATE alert_outbox
                  SET delivered_to = %(reached)s, last_error = %(error)s,
                      delivered_at = %(delivered)s, given_up_at = %(given_up)s,
                      next_attempt_at = %(next)s
                WHERE alert_id = %(id)s""",
            {
                "reached": sorted(reached),
                "error": "; ".join(errors) or None,
                "delivered": None if errors else now,
                "given_up": now if give_up else None,
                "next": now + backoff,
                "id": alert.alert_id,
            },
        )
    return DeliveryReport(
        delivered=int(not errors),
        to_retry=int(bool(errors) and not give_up),
        given_up=int(give_up),
    )
