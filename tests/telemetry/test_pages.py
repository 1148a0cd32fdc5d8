"""A scrape is printed once per snapshot and format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from secmon_dagster.telemetry.pages import Pages

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Counting(Collector):
    """Says how often it was printed."""

    def __init__(self, name: str) -> None:
        self.name, self.printed = name, 0

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.printed += 1
        yield GaugeMetricFamily(self.name, "help", self.printed)


class Bench:
    """Pages over collectors that count, and a state to change."""

    def __init__(self) -> None:
        self.all_of, self.own, self.state = Counting("all"), Counting("own"), object()
        self.pages = Pages(self.all_of, self.own, lambda: self.state)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_all_is_printed_once_and_the_exporters_own_each_time(bench: Bench) -> None:
    for _ in range(3):
        page, _ = bench.pages.page("")
    assert (bench.all_of.printed, bench.own.printed) == (1, 3)
    assert page.decode().splitlines()[-1] == "own 3.0"


def test_a_new_state_is_printed_anew_beforehand_in_the_formats_that_were_asked_for(
    bench: Bench,
) -> None:
    bench.pages.page("")
    bench.pages.page(OPENMETRICS)
    bench.state = object()
    bench.pages.renew()
    assert bench.all_of.printed == 4
    page, content_type = bench.pages.page(OPENMETRICS)
    assert bench.all_of.printed == 4
    assert content_type.startswith("application/openmetrics-text")
    assert page.decode().count("# EOF") == 1


def test_a_scraper_that_invents_formats_does_not_fill_the_memory(bench: Bench) -> None:
    for minor in range(20):
        bench.pages.page(f"application/openmetrics-text; version=1.{minor}.0")
    before = bench.all_of.printed
    bench.pages.renew()
    assert bench.all_of.printed - before <= 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/metrics", "200 OK"), ("GET", "/etc/passwd", "404 Not Found"),
     ("POST", "/metrics", "405 Method Not Allowed")],
)  # fmt: skip
def test_nothing_but_metrics_is_served(bench: Bench, method: str, path: str, status: str) -> None:
    said: list[str] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
    bench.pages(environ, lambda line, _: said.append(line))
    assert said == [status]
