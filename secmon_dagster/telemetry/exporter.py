"""The totals over HTTP: text and OpenMetrics, with what was last known while PostgreSQL is down.

A thread collects every few seconds and prints; a scrape only sends, so a storm of scrapes costs the
database nothing.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from secmon_dagster.errors import DatabaseError, InvalidInputError, SchemaError
from secmon_dagster.telemetry.metrics import METRICS, Kind, Metric
from secmon_dagster.telemetry.pages import Pages
from secmon_dagster.telemetry.recorder import Recorder, Series, Snapshot, Total, canonical

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
OWN = ("secmon_db_up", "secmon_collect_seconds", "secmon_collect_age_seconds")


class PlatformCollector(Collector):
    """Prints the last snapshot; :meth:`refresh` takes a new one."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or Recorder()
        self._snapshot = Snapshot()
        self._up = False
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Collect, or keep the old numbers where PostgreSQL doesn't answer; says whether it did."""
        with self._lock:
            try:
                self._snapshot = self._recorder.collect()
            except (DatabaseError, SchemaError) as failure:
                if self._up:
                    _log.warning("metrics: %s; showing the last known ones", failure.message)
                self._up = False
            else:
                self._up = True
            return self._up

    def collect(self) -> Iterator[Family]:
        """What the last snapshot holds, in the order the metrics are declared."""
        snapshot = self._snapshot
        by_name: dict[str, dict[Series, Total]] = {}
        for series, total in snapshot.totals.items():
            by_name.setdefault(series[0], {})[series] = total
        for series, value in snapshot.gauges.items():
            by_name.setdefault(series[0], {})[series] = Total(value)
        for metric in METRICS.values():
            if metric.name not in OWN:
                yield _family(metric, by_name)

    def state(self) -> Snapshot:
        """The last snapshot: the same object as long as nothing was collected."""
        return self._snapshot

    def own(self) -> dict[str, float]:
        """The exporter's gauges about itself, as they are now."""
        snapshot = self._snapshot
        age = time.monotonic() - snapshot.taken if snapshot.taken else 0.0
        return dict(zip(OWN, (float(self._up), snapshot.seconds, age), strict=True))


class _Own(Collector):
    """The exporter's gauges about itself."""

    def __init__(self, collector: PlatformCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Family]:
        for name, value in self._collector.own().items():
            yield GaugeMetricFamily(name, METRICS[name].help, value)


def _values(metric: Metric, labels: str) -> list[str]:
    parsed = json.loads(labels)
    return [str(parsed.get(name, "")) for name in metric.labels]


def _exemplar(total: Total) -> Exemplar | None:
    return Exemplar({"run_id": total.exemplar[:64]}, 1.0) if total.exemplar else None


def _family(metric: Metric, by_name: dict[str, dict[Series, Total]]) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, by_name)
    found = {labels: total for (_, labels), total in by_name.get(metric.name, {}).items()}
    if metric.kind is Kind.GAUGE:
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        # A gauge without a source says nothing rather than zero; a known label set is zero.
        start = {canonical(labels): Total(0.0) for labels in metric.initial() if metric.labels}
        for labels, total in (start | found).items():
            gauge.add_metric(_values(metric, labels), total.value)
        return gauge
    counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    start = {canonical(labels): Total(0.0) for labels in metric.initial()}
    for labels, total in (start | found).items():
        counter.add_metric(_values(metric, labels), total.value, exemplar=_exemplar(total))
    return counter


def _histogram(metric: Metric, by_name: dict[str, dict[Series, Total]]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    sums = {
        labels: total.value for (_, labels), total in by_name.get(f"{metric.name}_sum", {}).items()
    }
    counts: dict[str, dict[str, Total]] = {canonical(labels): {} for labels in metric.initial()}
    for (_, labels), total in by_name.get(f"{metric.name}_bucket", {}).items():
        parsed = json.loads(labels)
        bound = parsed.pop("le")
        counts.setdefault(canonical(parsed), {})[bound] = total
    for labels, by_bound in counts.items():
        reached = 0.0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for bound in [*(f"{upper:g}" for upper in metric.buckets), "+Inf"]:
            total = by_bound.get(bound, Total(0.0))
            reached += total.value
            exemplar = _exemplar_in(total, bound)
            buckets.append((bound, reached, exemplar) if exemplar else (bound, reached))
        family.add_metric(_values(metric, labels), buckets, sums.get(labels, 0.0))
    return family


def _exemplar_in(total: Total, bound: str) -> Exemplar | None:
    """An exemplar of a bucket must lie in it; the bound itself does."""
    if not total.exemplar or bound == "+Inf":
        return None
    return Exemplar({"run_id": total.exemplar[:64]}, float(bound))


class _Quiet(WSGIRequestHandler):
    """Scrapes are no news."""

    def log_message(self, format: str, *args: object) -> None: ...


class Exporter:
    """The HTTP server and its collecting thread.

    Args:
        host: address to listen on.
        port: 1 to 65535, or 0 for any free one.
        interval: seconds between collections.
    """

    def __init__(self, host: str, port: int, *, interval: float = INTERVAL_SECONDS) -> None:
        if not 0 <= port <= 65_535:
            raise InvalidInputError.of("port", port, "0 to 65535")
        self.collector = PlatformCollector()
        self._pages = Pages(self.collector, _Own(self.collector), self.collector.state)
        self._address = (host, port)
        self._interval = interval
        self._stop = threading.Event()
        self._server: WSGIServer | None = None

    def start(self) -> int:
        """Listen and collect in threads; returns the port.

        Raises:
            InvalidInputError: the port is taken or the address isn't ours.
        """
        host, port = self._address
        try:
            self._server = make_server(
                host, port, self._pages, ThreadingWSGIServer, handler_class=_Quiet
            )
        except OSError as taken:
            raise InvalidInputError(
                f"the metrics exporter can't listen on {host}:{port}: {taken.strerror}",
                hint="Another exporter may run; choose a port with --port or SECMON_METRICS_PORT.",
            ) from None
        for name, work in (("serve", self._server.serve_forever), ("collect", self._collect)):
            threading.Thread(target=work, name=f"secmon-metrics-{name}", daemon=True).start()
        return int(self._server.server_port)

    def _collect(self) -> None:
        while not self._stop.is_set():
            if self.collector.refresh():
                self._pages.renew()
            self._stop.wait(self._interval)

    def wait(self) -> None:
        """Until :meth:`stop`."""
        self._stop.wait()

    def stop(self) -> None:
        """Stop listening and collecting."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
