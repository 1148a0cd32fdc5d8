"""Each example of ``examples/limits`` runs and ends as its first line says."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterInstance, execute_job

from secmon_dagster.orchestration.dagster_internals import ReconstructableJob

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


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_example_ends_as_it_says(name, tmp_path):
    job = ReconstructableJob.for_file(str(EXAMPLES / f"{name}.py"), name)
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = execute_job(job, instance=instance)
        violations = {
            entry.step_key: entry.dagster_event.step_failure_data.user_failure_data.metadata[
                "violation"
            ].value
            for entry in instance.all_logs(result.run_id, of_type=DagsterEventType.STEP_FAILURE)
        }
    assert violations == EXPECTED[name]
    assert result.success is (not EXPECTED[name])
