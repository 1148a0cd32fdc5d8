"""Adding up what is new: every row of every source once, however often the exporter restarts.

Totals and cursors move in one transaction, so a crash between the two is impossible, and the cursor
row is locked, so two exporters don't count a row twice.
"""

from __future__ import annotations

import bisect
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import psycopg

from secmon_dagster.database import transaction
from secmon_dagster.errors import DatabaseError
from secmon_dagster.telemetry.metrics import METRICS, Kind
from secmon_dagster.telemetry.sources import GAUGES, SOURCES, Increment, Source

_log = logging.getLogger(__name__)

BATCH = 5000
MAX_SERIES = 200
_KEPT_GAPS = 1000
_OVERLAP = timedelta(minutes=2)  # how late a row may appear that is read by its time
_SAMPLE_SECONDS = 60.0
_ALL_SAMPLES_SECONDS = 3600.0
_KEEP_SAMPLES = timedelta(days=15)
_STATEMENT_SECONDS = 5
# A backlog (a first start on a grown database) is counted over several collections, so that the
# first numbers don't wait for the last row. Each source gets on by a batch at least.
_CATCHING_UP_SECONDS = 3.0

Series = tuple[str, str]  # metric name, labels as canonical JSON
# Of each histogram: its upper bounds, and their texts with that of infinity.
_BOUNDS = {
    metric.name: (metric.buckets, (*(f"{upper:g}" for upper in metric.buckets), "+Inf"))
    for metric in METRICS.values()
    if metric.kind is Kind.HISTOGRAM
}


def canonical(labels: dict[str, str]) -> str:
    """Labels as text that is the same for the same labels."""
    return _canonical(tuple(sorted(labels.items())))


@lru_cache(maxsize=16_384)
def _canonical(labels: tuple[tuple[str, str], ...]) -> str:
    # Most rows of a batch share their labels.
    return json.dumps(dict(labels), separators=(",", ":"))


@dataclass(frozen=True)
class Total:
    """The value of one series and a run id that led to it."""

    value: float
    exemplar: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """What was known at one moment.

    Attributes:
        totals: counters and histogram parts (``name_bucket`` with ``le``, ``name_sum``).
        gauges: values now.
        taken: when, monotonic seconds.
        seconds: how long it took.
    """

    totals: dict[Series, Total] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    taken: float = 0.0
    seconds: float = 0.0


def spread(increments: Iterable[Increment]) -> dict[Series, Total]:
    """Increments added up by series; a histogram's observation goes to one bucket and the sum.

    Buckets are stored apart, not cumulated; :mod:`exporter` cumulates them.
    """
    # Labels become canonical at the end: of thousands of rows most are of a few series.
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    exemplars: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
    for name, labels, value, exemplar in increments:
        key = tuple(labels.items())
        bounds = _BOUNDS.get(name)
        if bounds is None:
            series = (name, key)
            values[series] += value
        else:
            upper, texts = bounds
            series = (f"{name}_bucket", (*key, ("le", texts[bisect.bisect_left(upper, value)])))
            values[series] += 1.0
            values[(f"{name}_sum", key)] += value
        if exemplar is not None:
            exemplars[series] = exemplar
    return {
        (name, canonical(dict(key))): Total(value, exemplars.get((name, key)))
        for (name, key), value in values.items()
    }


class Recorder:
    """Reads the sources on, keeps the totals, and takes a sample a minute for export.

    What it knows stays in memory too, so that a collection reads only what has changed.
    """

    def __init__(self) -> None:
        self._label_sets: dict[str, set[str]] = {}
        self._known: dict[Series, Total] = {}
        self._read_until: datetime | None = None
        self._present: set[str] = set()
        self._sampled = self._all_sampled = 0.0
        self._samples: dict[Series, float] = {}

    def collect(self) -> Snapshot:
        """Count what is new and give all totals and gauges.

        Raises:
            DatabaseError: PostgreSQL doesn't answer.
        """
        started = time.monotonic()
        try:
            if not self._known:
                self._totals()  # which label sets there are, before any is added
            for source in SOURCES:
                while self._advance(source) >= BATCH:
                    if time.monotonic() > started + _CATCHING_UP_SECONDS:
                        break
            totals, gauges = self._totals(), self._gauges()
            if started - self._sampled >= _SAMPLE_SECONDS or not self._sampled:
                self._sample(totals, gauges)
                self._sampled = started
        except psycopg.Error as failure:
            raise DatabaseError(f"metrics could not be collected: {failure}") from None
        return Snapshot(totals, gauges, time.monotonic(), time.monotonic() - started)

    def _advance(self, source: Source) -> int:
        """Count one batch of ``source``; returns how many rows were new."""
        with transaction() as connection:
            connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'")
            if not self._there(connection, source.tables):
                return 0
            cursor = _cursor(connection, source.name)
            step = self._by_time if source.by_time else self._by_id
            rows = step(connection, source, cursor)
            if rows:
                self._add(connection, [part for row in rows for part in source.read(row)])
            return len(rows)

    def _by_id(
        self, connection: psycopg.Connection[Any], source: Source, cursor: Any
    ) -> Sequence[Any]:
        position, gaps, _, _ = cursor
        rows = connection.execute(
            source.query, {"after": position, "ids": gaps, "limit": BATCH}
        ).fetchall()
        if not rows:
            return rows
        ids = {row[0] for row in rows}
        reached = max(position, *ids)
        missing = set(range(max(position, reached - _KEPT_GAPS) + 1, reached)) - ids
        left = sorted((set(gaps) - ids) | missing)[-_KEPT_GAPS:]
        connection.execute(
            "UPDATE metric_cursors SET position = %s, gaps = %s, updated_at = clock_timestamp() "
            "WHERE source = %s",
            [reached, left, source.name],
        )
        return rows

    def _by_time(
        self, connection: psycopg.Connection[Any], source: Source, cursor: Any
    ) -> Sequence[Any]:
        _, _, moment, seen = cursor
        last = None if moment == "-infinity" else datetime.fromisoformat(moment)
        since = datetime(1970, 1, 1, tzinfo=UTC) if last is None else last - _OVERLAP
        known = {entry.partition(" ")[2] for entry in seen}
        rows = [
            row
            for row in connection.execute(
                source.query, {"since": since, "limit": BATCH + len(known)}
            ).fetchall()
            if row[0] not in known
        ]
        if not rows:
            return rows
        reached = max([row[1] for row in rows] + ([last] if last else []))
        # A clock that jumped ahead must not hide what comes after it jumps back.
        reached = min(reached, datetime.now(UTC) + _OVERLAP)
        # Every key that the next reading can meet again, each behind its moment.
        until = (reached - _OVERLAP).timestamp()
        entries = [*seen, *(f"{row[1].timestamp():.6f} {row[0]}" for row in rows)]
        kept = [entry for entry in entries if float(entry.partition(" ")[0]) >= until]
        connection.execute(
            "UPDATE metric_cursors SET moment = %s, seen = %s, updated_at = clock_timestamp() "
            "WHERE source = %s",
            [reached, kept, source.name],
        )
        return rows

    def _add(self, connection: psycopg.Connection[Any], increments: Iterable[Increment]) -> None:
        found: dict[Series, Total] = {}
        for series, total in spread(increments).items():
            place = self._bounded(series)
            before = found.get(place, Total(0.0))
            found[place] = Total(before.value + total.value, total.exemplar or before.exemplar)
        with connection.cursor() as cursor:
            cursor.executemany(
                """INSERT INTO metric_totals (name, labels, value, exemplar)
                   VALUES (%s, %s, %s, %s) ON CONFLICT (name, labels) DO UPDATE
                   SET value = metric_totals.value + excluded.value,
                       changed_at = excluded.changed_at,
                       exemplar = coalesce(excluded.exemplar, metric_totals.exemplar)""",
                [
                    (name, labels, total.value, total.exemplar)
                    for (name, labels), total in sorted(found.items())
                ],
            )

    def _bounded(self, series: Series) -> Series:
        """The series, or that of ``other`` where the metric has too many label sets."""
        name, text = series
        labels: dict[str, str] = json.loads(text)
        family, plain = _label_set(name, labels)
        sets = self._label_sets.setdefault(family, set())
        if plain in sets or plain == "{}":
            return series
        if len(sets) < MAX_SERIES:
            sets.add(plain)
            return series
        return name, canonical({k: v if k == "le" else "other" for k, v in labels.items()})

    def _totals(self) -> dict[Series, Total]:
        """All totals; of the table only what has changed lately is read, by whomever."""
        with transaction() as connection:
            rows = connection.execute(
                """SELECT name, labels, value, exemplar, changed_at FROM metric_totals
                    WHERE changed_at > coalesce(%s, '-infinity'::timestamptz)""",
                [self._read_until],
            ).fetchall()
        if rows:
            # Another exporter may commit later what it changed earlier.
            self._read_until = max(row[4] for row in rows) - _OVERLAP
        for name, labels, value, exemplar, _ in rows:
            series = (name, canonical(labels))
            if series not in self._known:
                family, plain = _label_set(name, labels)
                self._label_sets.setdefault(family, set()).add(plain)
            self._known[series] = Total(value, exemplar)
        return dict(self._known)

    def _there(self, connection: psycopg.Connection[Any], tables: tuple[str, ...]) -> bool:
        """Whether these tables exist; once they do they are not looked for again."""
        if not self._present.issuperset(tables) and _present(connection, tables):
            self._present.update(tables)
        return self._present.issuperset(tables)

    def _gauges(self) -> dict[Series, float]:
        found: dict[Series, float] = {}
        with transaction() as connection:
            connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'")
            for gauge in GAUGES:
                if self._there(connection, gauge.tables):
                    for name, labels, value in connection.execute(gauge.query):
                        found[(name, canonical(labels))] = float(value)
        return found

    def _sample(self, totals: dict[Series, Total], gauges: dict[Series, float]) -> None:
        """A sample of every series that has changed since its last one; of all once an hour."""
        now = datetime.now(UTC)
        values = {series: total.value for series, total in totals.items()} | gauges
        if time.monotonic() - self._all_sampled >= _ALL_SAMPLES_SECONDS or not self._all_sampled:
            self._samples, self._all_sampled = {}, time.monotonic()
        rows = [
            (now, *series, value)
            for series, value in values.items()
            if self._samples.get(series) != value
        ]
        self._samples = values
        with transaction() as connection:
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO metric_samples VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    rows,
                )
            connection.execute("DELETE FROM metric_samples WHERE at < %s", [now - _KEEP_SAMPLES])


def _label_set(name: str, labels: dict[str, str]) -> tuple[str, str]:
    """The metric a stored series belongs to, and its labels without a bucket's bound."""
    family = name.removesuffix("_bucket").removesuffix("_sum")
    return family, canonical({key: value for key, value in labels.items() if key != "le"})


def _cursor(connection: psycopg.Connection[Any], source: str) -> Any:
    """How far a source has been counted; the row is locked."""
    for _ in range(2):
        found = connection.execute(
            "SELECT position, gaps, moment::text, seen FROM metric_cursors "
            "WHERE source = %s FOR UPDATE",
            [source],
        ).fetchone()
        if found is not None:
            break
        connection.execute(
            "INSERT INTO metric_cursors (source) VALUES (%s) ON CONFLICT DO NOTHING", [source]
        )
    return found


def _present(connection: psycopg.Connection[Any], tables: tuple[str, ...]) -> bool:
    row = connection.execute(
        "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(%s::text[]) name",
        [list(tables)],
    ).fetchone()
    return bool(row and row[0])
