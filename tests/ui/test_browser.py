"""What a person does in the UI, done by a browser."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.ui import WebDriverWait

from tests.ui.conftest import screenshot

# One platform and one browser for all of these, so one worker for all of these.
pytestmark = [pytest.mark.xdist_group("ui"), pytest.mark.timeout(600)]

LOCATION = "secmon_dagster"
JOB = "secure_training_pipeline"
RUN_SECONDS = 300


def ask(platform, query: str) -> dict[str, Any]:
    answer = httpx.post(f"{platform.ui}/graphql", json={"query": query}, timeout=60).json()
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def secmon(platform, *arguments: str) -> str:
    """What the command line prints, asked about this platform."""
    command = [str(Path(sys.executable).parent / "secmon"), *arguments]
    return subprocess.run(
        command, env=platform.environment, check=True, capture_output=True, text=True
    ).stdout


def wait_for_text(browser, *texts: str, seconds: float = 60) -> None:
    """Until an element shows one of the texts; a picture of the page is kept where none does."""
    path = " or ".join(f"contains(text(), '{text}')" for text in texts)
    try:
        WebDriverWait(browser, seconds).until(
            seen.presence_of_element_located((By.XPATH, f"//*[{path}]"))
        )
    except TimeoutException:
        screenshot(browser, "not-found")
        raise AssertionError(f"{browser.current_url} shows none of {texts}") from None


def open_until(browser, address: str, text: str, seconds: float = 90) -> None:
    """Open a page again until it shows the text: the UI keeps an asset's last state for a while."""
    deadline = time.monotonic() + seconds
    while True:
        browser.get(address)
        try:
            return wait_for_text(browser, text, seconds=10)
        except AssertionError:
            if time.monotonic() > deadline:
                raise


def click(browser, text: str, seconds: float = 60) -> None:
    """The first enabled button with this text."""
    path = f"//button[not(@disabled)][contains(normalize-space(.), '{text}')]"
    WebDriverWait(browser, seconds).until(seen.element_to_be_clickable((By.XPATH, path))).click()


def end_of(platform, run_id: str) -> str:
    """The run's status once it has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        data = ask(platform, f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}')
        if data["runOrError"]["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return str(data["runOrError"]["status"])
        time.sleep(1)
    raise AssertionError(f"run {run_id} hasn't ended after {RUN_SECONDS} s")


@pytest.fixture(scope="module")
def ui(platform, browser):
    """The UI's address, once it shows something."""
    browser.get(platform.ui)
    wait_for_text(browser, "Runs", seconds=90)
    return platform.ui


@pytest.fixture(scope="module")
def run_id(platform, browser, ui) -> str:
    """A run of the main job, launched with the button of its page."""
    browser.get(f"{ui}/locations/{LOCATION}/jobs/{JOB}")
    wait_for_text(browser, "breast_cancer")
    click(browser, "Materialize all")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        data = ask(
            platform,
            f'{{ runsOrError(filter: {{pipelineName: "{JOB}"}}, limit: 1) '
            "{ ... on Runs { results { runId } } } }",
        )
        if data["runsOrError"]["results"]:
            return str(data["runsOrError"]["results"][0]["runId"])
        time.sleep(0.5)
    raise AssertionError("the UI launched no run")


def test_the_code_location_loads_without_error(platform):
    data = ask(
        platform,
        """{ workspaceOrError { ... on Workspace { locationEntries {
               name locationOrLoadError { __typename ... on PythonError { message } } } } } }""",
    )
    (location,) = data["workspaceOrError"]["locationEntries"]
    assert location["locationOrLoadError"] == {"__typename": "RepositoryLocation"}


def test_jobs_schedules_and_sensors_are_listed(platform):
    data = ask(
        platform,
        """{ repositoriesOrError { ... on RepositoryConnection { nodes {
               jobs { name } schedules { name } sensors { name } } } } }""",
    )
    (repository,) = data["repositoriesOrError"]["nodes"]
    assert JOB in {job["name"] for job in repository["jobs"]}
    assert repository["schedules"]
    assert "drift_alert_sensor" in {sensor["name"] for sensor in repository["sensors"]}


def test_the_job_launched_from_the_ui_ends_green(platform, browser, ui, run_id):
    status = end_of(platform, run_id)
    browser.get(f"{ui}/runs/{run_id}")
    wait_for_text(browser, "Success", "Failure")
    screenshot(browser, "run")
    assert status == "SUCCESS"


def test_the_asset_graph_shows_the_whole_way_of_a_model(browser, ui, run_id):
    browser.get(f"{ui}/locations/{LOCATION}/asset-groups/breast_cancer")
    for name in ("raw", "train_test_split", "evaluation", "release", "drift_baseline"):
        wait_for_text(browser, name)
    screenshot(browser, "asset-graph")


def test_the_evaluation_page_shows_metrics_and_plots_their_history(browser, ui, run_id):
    open_until(browser, f"{ui}/assets/breast_cancer/evaluation?view=overview", "roc_auc")
    screenshot(browser, "evaluation")
    click(browser, "Plots")
    WebDriverWait(browser, 30).until(seen.presence_of_element_located((By.TAG_NAME, "canvas")))
    screenshot(browser, "metric-history")


def test_release_alone_launched_as_the_ui_does_never_releases_swapped_bytes(platform, ui, run_id):
    assert end_of(platform, run_id) == "SUCCESS"
    home = Path(platform.environment["SECMON_HOME"])
    released = home / "released" / "wine"
    before = {path.name: path.read_bytes() for path in released.iterdir()}
    with psycopg.connect(secmon(platform, "db", "url").strip()) as connection:
        ((stored,),) = connection.execute(
            "SELECT a.path FROM secmon.models m JOIN secmon.artifacts a ON a.id = m.artifact_id"
            " WHERE m.model_id = 'wine'"
        )
    genuine = Path(stored).read_bytes()
    Path(stored).write_bytes(genuine + b"x")
    try:
        launched = ask(
            platform,
            """mutation { launchRun(executionParams: {
                 selector: {repositoryLocationName: "secmon_dagster",
                            repositoryName: "__repository__",
                            jobName: "secure_training_pipeline",
                            assetSelection: [{path: ["wine", "release"]}],
                            assetCheckSelection: []},
                 runConfigData: "{}" }) {
                 __typename
                 ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
        )
        alone = launched["launchRun"]["run"]["runId"]
        assert end_of(platform, alone) == "FAILURE"
    finally:
        Path(stored).write_bytes(genuine)
    failed = ask(
        platform,
        f"""{{ runOrError(runId: "{alone}") {{ ... on Run {{ eventConnection {{ events {{
             ... on ExecutionStepFailureEvent {{ stepKey error {{ message }} }} }} }} }} }} }}""",
    )
    ((step, reason),) = [
        (event["stepKey"], event["error"]["message"])
        for event in failed["runOrError"]["eventConnection"]["events"]
        if event
    ]
    assert step == "wine__release" and "SHA-256" in reason
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before


def test_the_drift_page_plots_each_features_psi(platform, browser, ui, run_id):
    """The model's drift job, launched for its partition as the UI's launchpad does."""
    assert end_of(platform, run_id) == "SUCCESS"
    launched = ask(
        platform,
        """mutation { launchRun(executionParams: {
             selector: {repositoryLocationName: "secmon_dagster", repositoryName: "__repository__",
                        jobName: "drift_check_job"},
             executionMetadata: {tags: [{key: "dagster/partition", value: "breast_cancer"}]},
             runConfigData: "{}" }) {
             __typename
             ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
    )
    check_run = launched["launchRun"]["run"]["runId"]
    assert end_of(platform, check_run) == "SUCCESS"
    open_until(browser, f"{ui}/assets/drift/breast_cancer?view=overview", "psi")
    click(browser, "Plots")
    WebDriverWait(browser, 30).until(seen.presence_of_element_located((By.TAG_NAME, "canvas")))
    screenshot(browser, "drift")
