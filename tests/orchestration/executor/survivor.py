"""Runs a job of ``jobs.py`` by name in a given instance folder; tests interrupt or kill it."""

import os
import sys

import dagster as dg
import jobs

if __name__ == "__main__":
    folder, job, backend = sys.argv[1:]
    with dg.DagsterInstance.local_temp(folder) as instance:
        dg.execute_job(
            dg.reconstructable(getattr(jobs, job)),
            instance=instance,
            run_config={
                "execution": {
                    "config": {
                        "audit": "off",
                        "backend": backend,
                        "grace": 0.5,
                        "max_concurrent": 3,
                        "preload_modules": os.environ.get("PRELOAD", "").split(),
                    }
                }
            },
        )
