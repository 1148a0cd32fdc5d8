"""Metrics as CSV: from the samples in PostgreSQL, or from a Prometheus by its HTTP API."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import httpx

from secmon_dagster.database import Role, transaction
from secmon_dagster.errors import InvalidInputError, SecmonError
from secmon_dagster.telemetry.metrics import METRICS, Kind
from secmon_dagster.telemetry.recorder import canonical

HEADER = ("timestamp", "metric", "labels", "value")
_TIMEOUT = 30.0

Sample = tuple[datetime, str, str, float]


class PrometheusError(SecmonError):
    """A Prometheus server doesn't answer, or not as its API says."""

    exit_code = 3
    status = 502
    problem_type = "prometheus-error"


def moment(field: str, text: str) -> datetime:
    """A date (its midnight, UTC) or an ISO 8601 time (UTC where it names no zone).

    Raises:
        InvalidInputError: neither.
    """
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError.of(field, text, "2025-01-31 or 2025-01-31T10:00:00+00:00") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def checked_range(start: datetime, end: datetime, step: timedelta) -> None:
    """Raises InvalidInputError unless ``start`` < ``end`` and ``step`` is 1 second to 1 day."""
    if start >= end:
        raise InvalidInputError.of("start-time", start.isoformat(), f"before {end.isoformat()}")
    if not timedelta(seconds=1) <= step <= timedelta(days=1):
        raise InvalidInputError.of("step", f"{step.total_seconds():g}s", "1 to 86400 seconds")


def names_of(metric: str | None) -> list[str]:
    """The stored series names of one metric, or of all.

    Raises:
        InvalidInputError: no such metric.
    """
    if metric is not None and metric not in METRICS:
        raise InvalidInputError.of(
            "metric", metric, "a metric's name, such as " + next(iter(METRICS))
        )
    chosen = METRICS.values() if metric is None else [METRICS[metric]]
    return [
        name
        for one in chosen
        for name in (
            (f"{one.name}_bucket", f"{one.name}_sum") if one.kind is Kind.HISTOGRAM else (one.name,)
        )
    ]


def from_tables(
    start: datetime, end: datetime, *, step: timedelta, metric: str | None = None
) -> Iterator[Sample]:
    """Samples from PostgreSQL: in each step the last one of each series."""
    checked_range(start, end, step)
    with transaction(Role.SERVICE) as connection, connection.cursor("metric_export") as cursor:
        cursor.execute(
            """SELECT DISTINCT ON (name, labels, step) at, name, labels, value
                 FROM (SELECT *, floor(extract(epoch FROM at - %(start)s) / %(step)s) AS step
                         FROM metric_samples
                        WHERE at >= %(start)s AND at < %(end)s AND name = ANY(%(names)s)) s
                ORDER BY name, labels, step, at DESC""",
            {
                "start": start,
                "end": end,
                "step": step.total_seconds(),
                "names": names_of(metric),
            },
        )
        for at, name, labels, value in cursor:
            yield at.astimezone(UTC), name, canonical(labels), value


def from_prometheus(
    url: str, start: datetime, end: datetime, *, step: timedelta, metric: str | None = None
) -> Iterator[Sample]:
    """Samples from a Prometheus server's range query.

    Raises:
        PrometheusError: it isn't there, or refuses.
    """
    checked_range(start, end, step)
    with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
        for name in names_of(metric):
            for series in _query_range(client, name, start, end, step):
                labels = {k: v for k, v in series["metric"].items() if k != "__name__"}
                for at, value in series["values"]:
                    yield datetime.fromtimestamp(at, UTC), name, canonical(labels), float(value)


def _query_range(
    client: httpx.Client, query: str, start: datetime, end: datetime, step: timedelta
) -> Any:
    try:
        answer = client.get(
            "/api/v1/query_range",
            params={
                "query": query,
                "start": start.timestamp(),
                "end": end.timestamp(),
                "step": step.total_seconds(),
            },
        )
        body = answer.json()
        if body["status"] != "success":
            raise PrometheusError(f"Prometheus refused {query}: {body.get('error', 'no reason')}")
        return body["data"]["result"]
    except httpx.HTTPError as failure:
        raise PrometheusError(
            f"no Prometheus answers at {client.base_url}: {type(failure).__name__}",
            hint="Leave --prometheus out to export from the tables.",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise PrometheusError(f"{client.base_url} does not speak Prometheus' API") from None


def write_csv(samples: Iterable[Sample], file: Path) -> int:
    """Write samples, oldest series first; returns how many."""
    count = 0
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(HEADER)
        for at, name, labels, value in samples:
            writer.writerow((at.isoformat(), name, labels, repr(value)))
            count += 1
    return count
