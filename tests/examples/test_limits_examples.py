"""Each example of ``examples/limits`` runs and ends as its first line says."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterInstance, execute_job

from secmon_dagster.orchestration.dagster_internals import ReconstructableJob

# Its tests share an instance and a database, which each worker would otherwise make anew.
pytestmark = pytest.mark.xdist_group("limits-examples")

EXAMPLES = Path(__file__).parents[2] / "examples" / "limits"
EXPECTED = {
    "basic_limits": {},
    "strict_limits": {"needs_more_memory_than_it_declared": "memory_limit_exceeded"},
    "mixed_limits": {},
    "timeouts": {"tidies_up": "time_limit_exceeded"},
    "progressive_limits": {},
    "layers": {"asks_for_more_than_its_layer_has": "unauthorized_access"},
}


def test_there_is_an_expectation_for_each_example():
    assert EXPECTED.keys() == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.fixture(scope="module")
def instance(new_database, tmp_path_factory):
    """One for all examples; their runs write to the audit chain of one database."""
    with new_database() as database, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SECMON_DATABASE_URL", database.url)
        with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("examples"))) as made:
            yield made


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_example_ends_as_it_says(name, instance):
    job = ReconstructableJob.for_file(str(EXAMPLES / f"{name}.py"), name)
    result = execute_job(job, instance=instance)
    violations = {
        entry.step_key: entry.dagster_event.step_failure_data.user_failure_data.metadata[
            "violation"
        ].value
        for entry in instance.all_logs(result.run_id, of_type=DagsterEventType.STEP_FAILURE)
    }
    assert violations == EXPECTED[name]
    assert result.success is (not EXPECTED[name])
