"""``secmon metrics export`` as documented."""

from __future__ import annotations

import csv
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secmon_dagster.cli.metrics import app
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.telemetry import Recorder
from secmon_dagster.telemetry.export import PrometheusError
from tests.conftest import Database

run = CliRunner()


def _export(tmp_path: Path, *words: str) -> list[dict[str, str]]:
    file = tmp_path / "out.csv"
    done = run.invoke(app, ["export", *words, "-o", str(file)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return list(csv.DictReader(file.open()))


def test_samples_of_a_range_are_written_as_csv(database: Database, tmp_path: Path) -> None:
    with database.admin() as connection:
        connection.execute("INSERT INTO secmon.vecsec_events (kind) VALUES ('analysis')")
    Recorder().collect()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    rows = _export(tmp_path, "--start-time", "2025-01-01", "--end-time", tomorrow)
    by_name = {row["metric"]: row for row in rows}
    assert float(by_name["vecsec_inference_total"]["value"]) == 1.0
    assert datetime.fromisoformat(by_name["vecsec_inference_total"]["timestamp"]).tzinfo


def test_one_metric_and_a_step_narrow_it(database: Database, tmp_path: Path) -> None:
    with database.admin() as connection:
        connection.execute(
            """INSERT INTO secmon.metric_samples
               SELECT '2025-01-01Z'::timestamptz + n * interval '1 min', name, '{}', n
                 FROM generate_series(0, 59) n,
                      unnest(ARRAY['vecsec_inference_total', 'secmon_db_up']) name"""
        )
    rows = _export(
        tmp_path, "--start-time", "2025-01-01", "--end-time", "2025-01-01T01:00:00",
        "--step", "600", "--metric", "vecsec_inference_total",
    )  # fmt: skip
    assert [float(row["value"]) for row in rows] == [9, 19, 29, 39, 49, 59]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--start-time", "yesterday"], "start-time is 'yesterday'"),
        (["--start-time", "2025-01-02", "--end-time", "2025-01-01"], "before 2025-01-01"),
        (["--start-time", "2025-01-01", "--step", "0"], "step is '0s'; allowed: 1 to 86400"),
        (["--start-time", "2025-01-01", "--metric", "nope"], "metric is 'nope'"),
    ],
)
def test_bad_options_are_named(
    database: Database, tmp_path: Path, words: list[str], complaint: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        _export(tmp_path, *words)
    assert complaint in str(refused.value)


@pytest.fixture
def prometheus() -> Iterator[Callable[[object], str]]:
    """A server that answers every question with a given body."""
    body: list[bytes] = [b""]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body[0])

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answering(content: object) -> str:
        body[0] = content if isinstance(content, bytes) else json.dumps(content).encode()
        return f"http://127.0.0.1:{server.server_port}"

    yield answering
    server.shutdown()
    server.server_close()


RANGE = ["--start-time", "2025-01-01", "--metric", "vecsec_inference_total"]


def test_a_prometheus_can_be_asked_instead(
    prometheus: Callable[[object], str], tmp_path: Path
) -> None:
    series = {"metric": {"__name__": "x", "job": "secmon"}, "values": [[1735689600, "4"]]}
    url = prometheus({"status": "success", "data": {"result": [series]}})
    (row,) = _export(tmp_path, *RANGE, "--prometheus", url)
    assert (row["value"], row["labels"]) == ("4.0", '{"job":"secmon"}')
    assert row["timestamp"] == "2025-01-01T00:00:00+00:00"


def test_a_prometheus_that_refuses_or_is_none_is_named(
    prometheus: Callable[[object], str], tmp_path: Path
) -> None:
    url = prometheus({"status": "error", "error": "too long"})
    with pytest.raises(PrometheusError, match="refused .*: too long"):
        _export(tmp_path, *RANGE, "--prometheus", url)
    prometheus(b"<html>")
    with pytest.raises(PrometheusError, match="does not speak Prometheus"):
        _export(tmp_path, *RANGE, "--prometheus", url)


def test_a_prometheus_that_is_not_there_is_named_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(PrometheusError, match="no Prometheus answers") as refused:
        _export(tmp_path, *RANGE, "--prometheus", "http://127.0.0.1:9")
    assert refused.value.hint is not None
