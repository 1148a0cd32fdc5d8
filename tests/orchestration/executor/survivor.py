"""Executes a job in a given instance folder; tests interrupt or kill it.

Reads module, job and the executor's configuration as a JSON list.
"""

import json
import sys

import dagster as dg

from secmon_dagster.orchestration.dagster_internals import ReconstructableJob

if __name__ == "__main__":
    module, job, config = json.load(sys.stdin)
    with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
        dg.execute_job(
            ReconstructableJob.for_module(module, job),
            instance=instance,
            run_config={"execution": {"config": config}},
        )
