"""What the audit chain still lacks about a run, once it is over.

The executor's parent writes most of it while the run is under way. What it could not write, because
it was killed or because another executor ran the job, is in Dagster's event log: this fills the
gap, and each event is in the chain once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from secmon_dagster.audit import AuditEntry, HashChainAuditLogger, Query
from secmon_dagster.orchestration.actor import actor_of

_ENDS = {
    dg.DagsterRunStatus.SUCCESS: ("RUN_COMPLETE", "execution.complete", "info"),
    dg.DagsterRunStatus.FAILURE: ("RUN_FAIL", "execution.failed", "error"),
    dg.DagsterRunStatus.CANCELED: ("RUN_CANCEL", "execution.cancelled", "warn"),
}
_STEPS = {
    dg.DagsterEventType.STEP_START: ("STEP_START", "job.start", "info"),
    dg.DagsterEventType.STEP_RESTARTED: ("STEP_START", "job.start", "info"),
    dg.DagsterEventType.STEP_SUCCESS: ("STEP_COMPLETE", "job.complete", "info"),
    dg.DagsterEventType.STEP_FAILURE: ("STEP_FAIL", "job.failed", "error"),
}


def complete_trail(
    log: HashChainAuditLogger, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> list[str]:
    """Append what is missing about a run that is over; the ids of the new entries."""
    known = log.find(Query(execution_id=run.run_id, include_superseded=True))
    events = [
        (str(record.dagster_event.step_key), record.dagster_event.event_type)
        for record in instance.all_logs(run.run_id, of_type=set(_STEPS))
        if record.dagster_event is not None
    ]
    return log.append_entries(missing_entries(run, events, known))


def missing_entries(
    run: dg.DagsterRun,
    events: Iterable[tuple[str, dg.DagsterEventType]],
    known: Sequence[AuditEntry],
) -> list[dict[str, Any]]:
    """The entries that ``known`` lacks, in their order.

    Args:
        run: over.
        events: step key and type of each step event in Dagster's log, in order.
        known: what the chain has about this run.
    """
    counted: dict[tuple[str | None, str], int] = {}
    for entry in known:
        place = (entry.job_id, entry.action)
        counted[place] = counted.get(place, 0) + 1
    # A limit that ended a step is that step's failure: the executor says it in its own words.
    wanted: list[tuple[str | None, str, str, str]] = [
        (None, "RUN_START", "execution.start", "info")
    ]
    wanted += [(step, *_STEPS[event]) for step, event in events]
    if run.status in _ENDS:
        wanted.append((None, *_ENDS[run.status]))
    missing = []
    seen: dict[tuple[str | None, str], int] = {}
    for step, action, event_type, level in wanted:
        place = (step, action)
        seen[place] = seen.get(place, 0) + 1
        if seen[place] > counted.get(place, 0):
            missing.append(_entry(run, step, action, event_type, level, seen[place]))
    return missing


def _entry(
    run: dg.DagsterRun, step: str | None, action: str, event_type: str, level: str, number: int
) -> dict[str, Any]:
    details: Mapping[str, Any] = {"job": run.job_name, "source": "event log"}
    return {
        # The same for every sensor evaluation: a repeated one appends nothing.
        "entry_id": f"run:{run.run_id}:{step or ''}:{action}:{number}",
        "action": action,
        "actor": actor_of(run),
        "resource_type": "run" if step is None else "step",
        "resource_id": run.run_id if step is None else f"{run.run_id}/{step}",
        "details": details,
        "level": level,
        "event_type": event_type,
        "execution_id": run.run_id,
        "job_id": step,
    }
