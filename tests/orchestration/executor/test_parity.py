"""The same job under the stock executor and under this one: same outcome, same event types.

What the stock executor does is on record in ``stock.json``, so that this one is held against it
each time; with ``--slow`` the record is held against the stock executor itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    ReexecutionOptions,
    execute_job,
)
from finished import Run
from parity_jobs import job_of

# Its tests look at the same few runs, which each worker would otherwise execute anew.
pytestmark = pytest.mark.xdist_group("executor-parity")

HERE = Path(__file__).parent
RECORD = HERE / "stock.json"
USAGE = "Resource usage of step"
WARM = ["parity_jobs", "dagster._core.execution.api", "sqlalchemy", "alembic.script"]
FORKSERVER = {"start_method": {"forkserver": {"preload_modules": WARM}}}
SLOW = pytest.mark.slow
STOCK = pytest.param("stock", marks=SLOW)


def executed(run, graph, executor, config=None, selection=None):
    config = {**(config or {}), **(FORKSERVER if executor == "stock" else {})}
    return run(
        job_of(graph, executor), config=config, stock=executor == "stock", selection=selection
    )


def outcome(done: Run):
    """Success, and the event types of each step in order without the one that this one adds."""
    found = {}
    for event in done.events():
        if event.step_key is not None and not (event.message or "").startswith(USAGE):
            found.setdefault(event.step_key, []).append(event.event_type_value)
    steps = {key: " ".join(kinds) for key, kinds in sorted(found.items())}
    return {"success": done.succeeded, "steps": steps}


def again(done: Run, executor, options: ReexecutionOptions) -> Run:
    config = {"audit": "off"} if executor == "boxed" else FORKSERVER
    result = execute_job(
        job_of("everyday", executor),
        instance=done.instance,
        reexecution_options=options,
        run_config={"execution": {"config": config}},
    )
    return Run(result, done.instance)


def case_of(name, run, executor) -> Run:
    if name == "retries off":
        return executed(run, "retries_off", executor, {"retries": {"disabled": {}}})
    if name == "some ops":
        return executed(run, "everyday", executor, selection=["*added"])
    everyday = executed(run, "everyday", executor)
    parent = everyday.result.run_id
    if name == "again from failure":
        return again(everyday, executor, ReexecutionOptions.from_failure(parent, everyday.instance))
    if name == "some step keys":
        selected = ["left", "added", "double[part_1]"]
        return again(everyday, executor, ReexecutionOptions(parent, step_selection=selected))
    return everyday


# A run's zygote takes seconds to get warm: two cases each time, the others with --slow.
CASES = [
    "everyday",
    "again from failure",
    *(pytest.param(name, marks=SLOW) for name in ("retries off", "some ops", "some step keys")),
]


@pytest.mark.parametrize("executor", ["boxed", STOCK])
@pytest.mark.parametrize("case", CASES)
def test_outcome_and_event_types_of_each_step_are_those_of_the_stock_executor(run, executor, case):
    assert outcome(case_of(case, run, executor)) == json.loads(RECORD.read_text())[case]


def test_a_failure_raised_by_an_op_keeps_its_own_metadata(run):
    data = executed(run, "everyday", "boxed").failure("fails_on_purpose").user_failure_data
    assert data.label == "intentional-failure"
    assert data.metadata["why"].value == "a test"


def test_the_event_added_to_each_step_tells_its_usage(run):
    [usage] = [
        event.event_specific_data.metadata
        for event in executed(run, "everyday", "boxed").events(DagsterEventType.ENGINE_EVENT, "one")
        if event.message.startswith(USAGE)
    ]
    assert usage["wall_seconds"].value > 0
    assert usage["enforcement"].value in ("cgroup2", "cgroup1", "sampled")


# --- who runs when --------------------------------------------------------------------------------


def spans(done):
    """Start and end of each step, from the moments of its events."""
    found = {}
    for entry in done.instance.all_logs(done.result.run_id):
        event = entry.dagster_event
        if event is not None and (event.is_step_start or event.is_step_success):
            found.setdefault(event.step_key, []).append(entry.timestamp)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["boxed", "stock"])
def test_steps_start_in_the_order_of_their_priority(run, executor):
    done = executed(run, "by_priority", executor, {"max_concurrent": 1})
    order = [event.step_key for event in done.events(DagsterEventType.STEP_START)]
    assert order == ["priority_8", "priority_5", "priority_4", "priority_0"]


@pytest.mark.parametrize("executor", ["boxed", STOCK])
@pytest.mark.parametrize("narrow", ["pool", "tag", "budget"])
def test_steps_of_a_pool_a_limited_tag_or_over_the_memory_budget_take_turns(
    run, instance, executor, narrow
):
    if executor == "stock" and narrow == "budget":
        pytest.skip("the stock executor has no memory budget")
    instance.event_log_storage.set_concurrency_slots("narrow", 1)
    # Room for one step of 300 MB beside those of the default.
    budget = {"memory_budget": "512MiB", "default_limits": {"maxMemoryMB": 64}}
    config = {
        "max_concurrent": 6,
        "tag_concurrency_limits": [{"key": "database", "value": "narrow", "limit": 1}],
        **({} if executor == "stock" else budget),
    }
    done = executed(run, "in_turns", executor, config)
    assert done.succeeded
    moments = spans(done)
    (_, first_end), (second_start, _) = sorted(
        moments[f"{name}_of_the_{narrow}"] for name in ("first", "second")
    )
    assert first_end <= second_start
    assert instance.event_log_storage.get_concurrency_info("narrow").active_slot_count == 0


# --- interrupts -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["boxed", "stock"])
def test_a_cancelled_run_ends_its_step_as_interrupted(tmp_path, executor):
    config = {"grace": 1.0, "audit": "off"} if executor == "boxed" else FORKSERVER
    process = subprocess.Popen(
        [sys.executable, str(HERE / "survivor.py"), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        text=True,
    )
    process.stdin.write(json.dumps(["parity_jobs", f"cancelled_{executor}", config]))
    process.stdin.close()
    until = time.monotonic() + 120
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        while True:
            assert time.monotonic() < until, "the step did not start"
            time.sleep(0.2)
            runs = instance.get_runs()
            logs = instance.all_logs(runs[0].run_id) if runs else []
            if any(entry.user_message.startswith("pid ") for entry in logs):
                break
        # What the launcher does first when a run is cancelled from the UI.
        instance.report_run_canceling(runs[0])
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert instance.get_run_by_id(runs[0].run_id).status is DagsterRunStatus.CANCELED
        events = [entry.dagster_event for entry in instance.all_logs(runs[0].run_id)]
        [failure] = [event for event in events if event is not None and event.is_step_failure]
    assert failure.step_key == "waits"
    assert failure.step_failure_data.error.cls_name == "DagsterExecutionInterruptedError"
    assert failure.step_failure_data.error_source.value == "INTERRUPT"
