"""A monitor from its YAML to the alert at a server, in the running platform and a real browser."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.ui import WebDriverWait

from tests.drift_data import frame
from tests.ui.conftest import RunningPlatform, screenshot, start_platform, stop_platform
from tests.ui.test_browser import ask, click, open_until, wait_for_text

MONITOR = """
type: secmon_dagster.DriftMonitor
attributes:
  model_id: churn
  schedule: "* * * * *"
  reference: {{path: {folder}/reference.parquet}}
  window: {{path: {folder}/current.parquet}}
"""
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ui"), pytest.mark.timeout(540)]


@dataclass(frozen=True)
class Receiver:
    """An HTTP server on loopback that keeps what it is posted."""

    port: int
    alerts: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield Receiver(server.server_port, got)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def watching(project: Path, receiver: Receiver) -> Iterator[RunningPlatform]:
    running = start_platform(
        project / "h",
        project,  # Dagster looks for the module here first
        PYTHONPATH=str(project),
        MONITORING_ALERT_WEBHOOK=f"http://127.0.0.1:{receiver.port}/hook",
        SECMON_ALERT_ALLOW_PRIVATE_ADDRESSES="true",
    )
    yield running
    assert stop_platform(running) == 0


def until(what: str, found: Callable[[], Any], seconds: float) -> Any:
    """What ``found`` gives, once it gives anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(1)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def asset_keys(platform: RunningPlatform) -> set[str]:
    nodes = ask(platform, "{ assetNodes { assetKey { path } } }")["assetNodes"]
    return {"/".join(node["assetKey"]["path"]) for node in nodes}


def reload(platform: RunningPlatform) -> None:
    """What the UI's button "Reload" sends."""
    answer = ask(
        platform,
        """mutation { reloadRepositoryLocation(repositoryLocationName: "secmon_dagster") {
             __typename ... on WorkspaceLocationEntry { loadStatus } } }""",
    )
    assert answer["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"


def partitions(platform: RunningPlatform) -> list[str]:
    data = ask(
        platform,
        """{ partitionSetsOrError(pipelineName: "drift_check_job", repositorySelector: {
               repositoryName: "__repository__", repositoryLocationName: "secmon_dagster"}) {
               ... on PartitionSets { results { partitionsOrError {
                 ... on Partitions { results { name } } } } } } }""",
    )
    (found,) = data["partitionSetsOrError"]["results"]
    return [each["name"] for each in found["partitionsOrError"]["results"]]


def ended_checks(platform: RunningPlatform) -> list[dict[str, Any]]:
    """Runs of the model's partition that have ended, with what started them."""
    data = ask(
        platform,
        """{ runsOrError(filter: {pipelineName: "drift_check_job",
               tags: [{key: "dagster/partition", value: "churn"}], statuses: [SUCCESS, FAILURE]}) {
               ... on Runs { results { runId status tags { key value } } } } }""",
    )
    return list(data["runsOrError"]["results"])


def test_from_yaml_to_the_partition_the_red_check_the_alert_and_the_plot(
    watching: RunningPlatform, project: Path, receiver: Receiver, browser: Any
) -> None:
    frame(seed=1).to_parquet(project / "reference.parquet")
    frame(seed=2, shift=2.0).to_parquet(project / "current.parquet")
    assert "drift/churn" not in asset_keys(watching)
    folder = project / "secmon_dagster" / "defs" / "churn"
    folder.mkdir()
    (folder / "defs.yaml").write_text(MONITOR.format(folder=project))
    browser.get(f"{watching.ui}/locations")
    reload(watching)
    until("the asset", lambda: "drift/churn" in asset_keys(watching), 120)
    until("the partition", lambda: "churn" in partitions(watching), 120)

    (check, *_) = until("a run of the schedule", lambda: ended_checks(watching), 240)
    tags = {tag["key"]: tag["value"] for tag in check["tags"]}
    assert (check["status"], tags["dagster/sensor_name"]) == ("SUCCESS", "drift_due_sensor")

    (alert,) = until("the alert", lambda: receiver.alerts, 120)
    payload = alert["metadata"]["event_payload"]
    assert (payload["subject_id"], payload["level"], payload["event"]) == (
        "churn",
        "CRITICAL",
        "raised",
    )
    open_until(browser, f"{watching.ui}/assets/drift/churn?view=overview", "psi/amount")
    click(browser, "Plots")
    WebDriverWait(browser, 30).until(seen.presence_of_element_located((By.TAG_NAME, "canvas")))
    screenshot(browser, "drift-monitor-plot")
    browser.get(f"{watching.ui}/assets/drift/churn?view=checks&checkDetail=drift")
    wait_for_text(browser, "level CRITICAL")
    screenshot(browser, "drift-monitor-check")

    shutil.rmtree(folder)
    reload(watching)
    until("the asset's end", lambda: "drift/churn" not in asset_keys(watching), 120)
