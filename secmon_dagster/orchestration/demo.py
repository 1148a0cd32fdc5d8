"""The main job and the attacks on it, each as a real Dagster run in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pandas as pd
import psycopg
from psycopg import sql

from secmon_dagster import database
from secmon_dagster.errors import SecmonError
from secmon_dagster.orchestration.actor import USER_TAG
from secmon_dagster.orchestration.platform import MODULE, die_with_parent
from secmon_dagster.settings import get_settings

_DEMO_TAG = "secmon/demo"
# "package.module.SomeError: what happened" without what a person at the terminal can't use
_CLASS_NAME = re.compile(r"^\w+(\.\w+)+: (?=\S)")


@dataclass(frozen=True)
class FinishedRun:
    """What Dagster recorded about a run."""

    run: dg.DagsterRun
    failures: dict[str, dg.DagsterEvent]  # step -> its STEP_FAILURE event

    @property
    def succeeded(self) -> bool:
        """Whether every step did."""
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    def failure_text(self, step: str) -> str:
        """Why a step failed, as its innermost cause says it; empty if it didn't."""
        if step not in self.failures:
            return ""
        error = self.failures[step].step_failure_data.error
        assert error is not None
        while error.cause is not None:
            error = error.cause
        return _CLASS_NAME.sub("", error.message.strip())

    def failure_metadata(self, step: str) -> dict[str, Any]:
        """The failure's metadata by name, plain values."""
        if step not in self.failures:
            return {}
        data = self.failures[step].step_failure_data.user_failure_data
        metadata = {} if data is None else data.metadata
        return {name: value.value for name, value in metadata.items()}


def execute(
    instance: dg.DagsterInstance,
    job: str,
    *,
    config: dict[str, Any] | None = None,
    user: str,
) -> FinishedRun:
    """Run ``job`` to its end with ``dagster job execute`` and read back what was recorded.

    Raises:
        SecmonError: Dagster made no run; its output is in the message.
    """
    mark = uuid.uuid4().hex
    folder = get_settings().home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / f"{job}-{mark[:8]}.json"
    configuration.write_text(json.dumps(config or {}))  # JSON is YAML
    labels = json.dumps({_DEMO_TAG: mark, USER_TAG: user})
    done = _dagster(
        "job", "execute", "-m", MODULE, "-j", job, "-c", str(configuration), "--tags", labels
    )
    runs = instance.get_runs(dg.RunsFilter(tags={_DEMO_TAG: mark}), limit=1)
    if not runs:
        raise SecmonError(
            f"dagster made no run of {job}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    failures = {
        str(record.event_log_entry.dagster_event.step_key): record.event_log_entry.dagster_event
        for record in instance.get_records_for_run(
            runs[0].run_id, of_type=dg.DagsterEventType.STEP_FAILURE
        ).records
        if record.event_log_entry.dagster_event is not None
    }
    return FinishedRun(runs[0], failures)


def _dagster(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "dagster")
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        # Dagster's minute is short for a code server that imports beside a run on a slow machine.
        env={"DAGSTER_GRPC_TIMEOUT_SECONDS": "300", **os.environ},
        # the executor's steps end within seconds of their run, however that ends
        preexec_fn=partial(die_with_parent, signal.SIGKILL),
    )


class _RunsACommand:
    """Unpickling an instance runs a shell command: what a poisoned model file does."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def poisoned_pickle() -> tuple[Path, Path]:
    """Write a pickle that calls ``os.system`` under a harmless name.

    Returns:
        The file, and the file it would create if anybody loaded it.
    """
    folder = get_settings().home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    proof = folder / "somebody-loaded-it"
    proof.unlink(missing_ok=True)
    file = folder / "quarterly_forecast.pkl"
    file.write_bytes(pickle.dumps({"weights": [0.1, 0.2], "meta": _RunsACommand(f"touch {proof}")}))
    return file, proof


def shifted_window(model_id: str, *, deviations: float) -> Path:
    """The model's own rows with every feature moved by ``deviations`` standard deviations."""
    table = pd.read_parquet(get_settings().home / "tables" / model_id / "features.parquet")
    numbers = table.select_dtypes("number").columns
    table[numbers] = table[numbers] + deviations * table[numbers].std()
    file = get_settings().home / "demo" / f"{model_id}-shifted-{deviations:g}.parquet"
    table.to_parquet(file)
    return file


def ticks(sensor: str) -> str:
    """Evaluate a sensor once, without a cursor, with ``dagster sensor preview``.

    Returns:
        What it asks for; where it could not be evaluated, why.
    """
    done = _dagster("sensor", "preview", sensor, "-m", MODULE)
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


@contextmanager
def copy_of_the_chain(tampered_seq: int | None = None) -> Iterator[str]:
    """A database with a copy of the audit chain, in which one entry may name another actor; it is
    gone after the block.

    Yields:
        The copy's URL.
    """
    name = f"secmon_copy_{uuid.uuid4().hex[:12]}"
    url = database.database_url()
    copy_url = urlsplit(url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            database.migrate(copy_url)
            with psycopg.connect(copy_url) as copy:
                copy.execute("SET ROLE secmon_owner")
                _copy_chain(admin, copy, tampered_seq)
            yield copy_url
        finally:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _copy_chain(
    source: psycopg.Connection[Any], copy: psycopg.Connection[Any], tampered_seq: int | None
) -> None:
    """What a table owner could do; the append function isn't used."""
    head = source.execute(
        "SELECT seq, entry_hash, timestamp, incarnation FROM secmon.audit_head"
    ).fetchone()
    assert head is not None
    copy.execute("SELECT secmon.audit_grow()")
    rows = source.execute("SELECT * FROM secmon.audit_entries ORDER BY seq")
    actor = [column.name for column in rows.description or ()].index("actor")
    insert = sql.SQL("INSERT INTO secmon.audit_entries VALUES ({})").format(
        sql.SQL(", ").join([sql.Placeholder()] * len(rows.description or ()))
    )
    copied = [
        (*row[:actor], "somebody_else", *row[actor + 1 :]) if row[0] == tampered_seq else row
        for row in rows
    ]
    with copy.cursor() as cursor:
        cursor.executemany(insert, copied)
    copy.execute(
        "UPDATE secmon.audit_head SET seq = %s, entry_hash = %s, timestamp = %s, incarnation = %s",
        head,
    )
