"""What a person does in the UI, done by a browser."""

from __future__ import annotations

import time
from typing import Any

import httpx
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.ui import WebDriverWait

from tests.ui.conftest import screenshot

LOCATION = "secmon_dagster"
JOB = "secure_training_pipeline"
RUN_SECONDS = 180


def ask(platform, query: str) -> dict[str, Any]:
    answer = httpx.post(f"{platform.ui}/graphql", json={"query": query}, timeout=60).json()
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def wait_for(browser, *selector, seconds: float = 60):
    return WebDriverWait(browser, seconds).until(seen.presence_of_element_located(selector))


def click(browser, text: str, seconds: float = 60) -> None:
    """The first enabled button with this text."""
    path = f"//button[not(@disabled)][contains(normalize-space(.), '{text}')]"
    WebDriverWait(browser, seconds).until(seen.element_to_be_clickable((By.XPATH, path))).click()


def test_the_code_location_loads_without_error(platform):
    data = ask(
        platform,
        """{ workspaceOrError { ... on Workspace { locationEntries {
               name locationOrLoadError { __typename ... on PythonError { message } } } } } }""",
    )
    (location,) = data["workspaceOrError"]["locationEntries"]
    assert location["locationOrLoadError"] == {"__typename": "RepositoryLocation"}


def test_every_schedule_and_sensor_is_listed(platform):
    data = ask(
        platform,
        """{ repositoriesOrError { ... on RepositoryConnection { nodes {
               jobs { name } schedules { name } sensors { name } } } } }""",
    )
    (repository,) = data["repositoriesOrError"]["nodes"]
    assert JOB in {job["name"] for job in repository["jobs"]}
    assert "drift_alert_sensor" in {sensor["name"] for sensor in repository["sensors"]}


def test_the_job_launches_from_the_ui_and_its_run_ends_green(platform, browser):
    browser.get(f"{platform.ui}/locations/{LOCATION}/jobs/{JOB}")
    wait_for(browser, By.XPATH, "//*[contains(text(), 'drift_baseline')]")
    screenshot(browser, "job")
    click(browser, "Materialize all")
    run_id = _newest_run(platform)
    browser.get(f"{platform.ui}/runs/{run_id}")
    wait_for(browser, By.XPATH, "//*[text()='Success' or text()='Failure']", seconds=RUN_SECONDS)
    screenshot(browser, "run")
    status = ask(platform, f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}')
    assert status == {"runOrError": {"status": "SUCCESS"}}


def test_the_asset_graph_shows_the_whole_way_of_a_model(platform, browser):
    browser.get(f"{platform.ui}/asset-groups/{LOCATION}@__repository__/breast_cancer")
    browser.get(f"{platform.ui}/locations/{LOCATION}/asset-groups/breast_cancer")
    for name in ("raw", "train_test_split", "evaluation", "release", "drift_baseline"):
        wait_for(browser, By.XPATH, f"//*[contains(text(), '{name}')]")
    screenshot(browser, "asset-graph")


def test_the_evaluation_page_shows_table_pictures_and_metric_history(platform, browser):
    browser.get(f"{platform.ui}/assets/breast_cancer/evaluation?view=overview")
    wait_for(browser, By.XPATH, "//*[contains(text(), 'roc_auc')]")
    screenshot(browser, "evaluation")
    browser.get(f"{platform.ui}/assets/breast_cancer/evaluation?view=plots")
    wait_for(browser, By.XPATH, "//*[contains(text(), 'accuracy')]")
    wait_for(browser, By.TAG_NAME, "canvas")
    screenshot(browser, "metric-history")


def _newest_run(platform) -> str:
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
