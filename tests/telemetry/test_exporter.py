"""The exporter from a scraper's side."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from secmon_dagster import database as database_package
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.settings import get_settings
from secmon_dagster.telemetry import METRICS, Exporter

Add = Callable[..., None]

SEED = {
    "vecsec_baseten_api_calls_total", "vecsec_baseten_api_calls_failed_total",
    "vecsec_baseten_api_duration_seconds", "vecsec_baseten_credits_remaining",
    "vecsec_inference_total", "vecsec_inference_duration_seconds",
    "vecsec_inference_success_total", "vecsec_inference_errors_total",
    "vecsec_attacks_blocked_total", "vecsec_threats_detected_total",
    "vecsec_semantic_similarity_score", "vecsec_rlsa_violations_total",
    "vecsec_patterns_learned_total", "vecsec_embedding_generation_total",
    "vecsec_model_updates_total",
}  # fmt: skip


@pytest.fixture
def exporter(event: Add) -> Iterator[tuple[Exporter, str]]:
    event(type="jailbreak", verdict="block", duration=0.002, similarity=0.5, run_id="run-1")
    exporter = Exporter("127.0.0.1", 0, interval=3600)
    port = exporter.start()
    exporter.collector.refresh()
    yield exporter, f"http://127.0.0.1:{port}/metrics"
    exporter.stop()


def test_every_metric_of_the_document_is_served_by_its_printed_name(
    exporter: tuple[Exporter, str],
) -> None:
    text = httpx.get(exporter[1]).text
    for name in SEED:
        assert f"\n{name}" in text, name
    assert 'vecsec_attacks_blocked_total{type="jailbreak"} 1.0' in text
    assert 'vecsec_attacks_blocked_total{type="exfiltration"} 0.0' in text


def test_only_declared_metrics_are_served(exporter: tuple[Exporter, str]) -> None:
    names = {
        line.split()[2] for line in httpx.get(exporter[1]).text.splitlines()
        if line.startswith("# TYPE")
    }  # fmt: skip
    assert names <= set(METRICS)


def test_curl_prints_the_metrics(exporter: tuple[Exporter, str]) -> None:
    printed = subprocess.run(["curl", "-s", exporter[1]], capture_output=True, text=True)
    assert "vecsec_inference_total 1.0" in printed.stdout


def test_openmetrics_carries_the_run_as_an_exemplar(exporter: tuple[Exporter, str]) -> None:
    answer = httpx.get(exporter[1], headers={"Accept": "application/openmetrics-text"})
    assert answer.text.endswith("# EOF\n")
    assert 'vecsec_attacks_blocked_total{type="jailbreak"} 1.0 # {run_id="run-1"}' in answer.text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_about(exporter: tuple[Exporter, str]) -> None:
    text = httpx.get(exporter[1]).text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, "", "")


def test_a_scrape_works_with_the_last_known_numbers_while_the_database_is_down(
    exporter: tuple[Exporter, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "secmon_db_up 1.0" in httpx.get(exporter[1]).text
    database_package.close_pools()
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    monkeypatch.setattr("secmon_dagster.database.sessions.POOL_WAIT_SECONDS", 0.5)
    get_settings.cache_clear()
    assert exporter[0].collector.refresh() is False
    text = httpx.get(exporter[1]).text
    assert "secmon_db_up 0.0" in text
    assert "vecsec_inference_total 1.0" in text


def test_a_storm_of_scrapes_asks_the_database_nothing(
    exporter: tuple[Exporter, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a scrape reached the database")

    monkeypatch.setattr("secmon_dagster.telemetry.recorder.transaction", forbidden)
    with ThreadPoolExecutor(16) as storm, httpx.Client() as client:
        answers = list(storm.map(lambda _: client.get(exporter[1]).status_code, range(64)))
    assert set(answers) == {200}


def test_a_taken_port_is_named_with_a_next_step(exporter: tuple[Exporter, str]) -> None:
    port = int(exporter[1].split(":")[2].split("/")[0])
    with pytest.raises(InvalidInputError, match=f"can't listen on 127.0.0.1:{port}") as refused:
        Exporter("127.0.0.1", port).start()
    assert "SECMON_METRICS_PORT" in str(refused.value.hint)


def test_the_thread_collects_by_itself(event: Add) -> None:
    event()
    exporter = Exporter("127.0.0.1", 0, interval=0.2)
    url = f"http://127.0.0.1:{exporter.start()}/metrics"
    try:
        until = time.monotonic() + 20
        while "vecsec_inference_total 1.0" not in httpx.get(url).text:
            assert time.monotonic() < until, "never collected"
            time.sleep(0.1)
    finally:
        exporter.stop()
