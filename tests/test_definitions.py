"""What the code location holds, as a person would list it; a change here is a change users see."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import dagster as dg
import pytest
import yaml

from secmon_dagster import definitions
from secmon_dagster.settings import PROJECT_ROOT

SNAPSHOT = Path(__file__).parent / "snapshots" / "definitions.txt"


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return definitions.defs().get_repository_def()


def listing(repository: dg.RepositoryDefinition) -> str:
    graph = repository.asset_graph
    sections = {
        "assets": [key.to_user_string() for key in graph.get_all_asset_keys()],
        "asset checks": [
            f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys
        ],
        "jobs": [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")],
        "schedules": [f"{s.name} ({s.default_status.value})" for s in repository.schedule_defs],
        "sensors": [f"{s.name} ({s.default_status.value})" for s in repository.sensor_defs],
    }
    return "\n".join(
        f"{title}\n" + "".join(f"  {name}\n" for name in sorted(names))
        for title, names in sections.items()
    )


def test_the_definitions_are_those_of_the_snapshot(repository):
    """To accept a change: ``python -m tests.test_definitions``."""
    assert listing(repository) == SNAPSHOT.read_text()


def test_every_job_runs_boxed_unless_it_only_launches_or_tells(repository):
    others = {
        job.name
        for job in repository.get_all_jobs()
        if job.executor_def.name != "resource_limit_executor"
    }
    assert others <= {"drift_alert_job"}


def test_every_asset_of_a_model_says_who_owns_it_and_what_it_is(repository):
    graph = repository.asset_graph
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        if node.tags.get("secmon/pipeline") == "training":
            assert node.description and node.owners and node.kinds and node.code_version, key


def test_alert_sensors_run_without_being_switched_on(repository):
    for sensor in repository.sensor_defs:
        if "alert" in sensor.name:
            assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_workspace_and_pyproject_name_the_same_module_and_location():
    """A run launched under another location's name is one the daemon can't start."""
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    pyproject = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    (entry,) = workspace["load_from"]
    assert (
        entry["python_module"]["module_name"]
        == pyproject["tool"]["dg"]["project"]["code_location_target_module"]
        == "secmon_dagster.definitions"
    )
    project = pyproject["tool"]["dg"]["project"]
    assert entry["python_module"]["location_name"] == project["code_location_name"]


def test_a_wheel_holds_what_a_checkout_has_beside_the_package(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT_ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name.removeprefix("secmon_dagster/") for name in wheel.namelist()}
    for beside, folder in (("sql", "_sql"), ("security_scripts", "_security_scripts")):
        files = {path.name for path in (PROJECT_ROOT / beside).iterdir() if path.is_file()}
        assert {f"{folder}/{name}" for name in files} <= held
    assert {"_dagster.yaml", "py.typed", "defs/models/wine/defs.yaml"} <= held


def test_sqlalchemy_stays_below_the_version_that_changes_what_postgresql_urls_mean():
    locked = (PROJECT_ROOT / "requirements.lock").read_text()
    (line,) = [line for line in locked.splitlines() if line.startswith("sqlalchemy==")]
    major, minor, *_ = line.split("==")[1].split(" ")[0].split(".")
    assert (int(major), int(minor)) < (2, 1)


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(listing(definitions.defs().get_repository_def()))
