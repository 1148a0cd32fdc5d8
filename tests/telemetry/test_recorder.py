"""Counting every row once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.errors import DatabaseError
from secmon_dagster.telemetry import METRICS, Kind, Recorder
from secmon_dagster.telemetry.recorder import MAX_SERIES, Snapshot, spread
from secmon_dagster.telemetry.sources import SOURCES, Increment
from tests.conftest import Database

Add = Callable[..., None]


def value(snapshot: Snapshot, name: str, labels: str = "{}") -> float:
    return snapshot.totals[(name, labels)].value


def test_an_event_is_counted_once_however_often_one_collects(event: Add) -> None:
    event(type="jailbreak", verdict="block", duration=0.002, similarity=0.5)
    recorder = Recorder()
    for _ in range(3):
        found = recorder.collect()
    assert value(found, "vecsec_attacks_blocked_total", '{"type":"jailbreak"}') == 1
    assert value(found, "vecsec_threats_detected_total", '{"type":"jailbreak"}') == 1
    assert value(found, "vecsec_inference_duration_seconds_bucket", '{"le":"0.0025"}') == 1


def test_counters_survive_a_restart_of_the_exporter(event: Add) -> None:
    event()
    Recorder().collect()
    event()
    assert value(Recorder().collect(), "vecsec_inference_total") == 2


def test_counters_survive_pruning_of_the_counted_rows(event: Add, database: Database) -> None:
    event()
    event()
    Recorder().collect()
    with database.admin() as connection:
        connection.execute("DELETE FROM secmon.vecsec_events")
    event()
    assert value(Recorder().collect(), "vecsec_inference_total") == 3


def test_a_row_that_commits_after_a_later_one_is_not_lost(event: Add, database: Database) -> None:
    with database.admin(autocommit=False) as slow:
        slow.execute("INSERT INTO secmon.vecsec_events (kind) VALUES ('analysis')")
        event()
        assert value(Recorder().collect(), "vecsec_inference_total") == 1
        slow.commit()
    assert value(Recorder().collect(), "vecsec_inference_total") == 2


def test_a_rolled_back_row_leaves_a_gap_and_no_count(event: Add, database: Database) -> None:
    with database.admin(autocommit=False) as connection:
        connection.execute("INSERT INTO secmon.vecsec_events (kind) VALUES ('analysis')")
        connection.rollback()
    event()
    for _ in range(2):
        assert value(Recorder().collect(), "vecsec_inference_total") == 1


def test_steps_are_counted_by_the_time_they_ended_and_each_once(database: Database) -> None:
    with database.admin() as connection:
        if connection.execute("SELECT to_regclass('secmon.step_usage')").fetchone() == (None,):
            pytest.skip("this schema has no step_usage yet")
        for run, minutes in (("a", 60), ("b", 0), ("c", 1)):
            connection.execute(
                """INSERT INTO secmon.step_usage (run_id, step_key, attempt, job_name, op_name,
                     enforcement, limits, outcome, violation, wall_seconds, ended_at)
                   VALUES (%s, 's', 1, 'j', 'o', 'sampled', '{}', 'failure',
                     'memory_limit_exceeded', 2, now() - make_interval(mins => %s))""",
                [run, minutes],
            )
            found = Recorder().collect()
    assert value(found, "secmon_violations_total", '{"type":"memory_limit_exceeded"}') == 3
    assert found.totals[
        ("secmon_violations_total", '{"type":"memory_limit_exceeded"}')
    ].exemplar in {"a", "b", "c"}


def test_more_rows_of_one_moment_than_a_batch_are_counted_once_each(database: Database) -> None:
    with database.admin() as connection:
        connection.execute(
            """INSERT INTO secmon.step_usage (run_id, step_key, attempt, job_name, op_name,
                 enforcement, limits, outcome, wall_seconds, ended_at)
               SELECT 'r' || n, 's', 1, 'j', 'o', 'cgroup2', '{}', 'success', 1, now()
                 FROM generate_series(1, 12000) n"""
        )
    for _ in range(3):
        found = Recorder().collect()
    steps = value(found, "secmon_steps_total", '{"job":"j","op":"o","outcome":"success"}')
    assert steps == 12_000


def test_a_backlog_does_not_keep_the_first_numbers_waiting(
    event: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        event()
    monkeypatch.setattr("secmon_dagster.telemetry.recorder.BATCH", 2)
    monkeypatch.setattr("secmon_dagster.telemetry.recorder._CATCHING_UP_SECONDS", -1.0)
    recorder = Recorder()
    counted = [value(recorder.collect(), "vecsec_inference_total") for _ in range(3)]
    assert counted == [2, 4, 5]


def test_a_clock_that_jumped_ahead_and_back_hides_no_step(database: Database) -> None:
    recorder = Recorder()
    for number, moment in enumerate(("now() + interval '1 day'", "now()", "now()")):
        with database.admin() as connection:
            connection.execute(
                f"""INSERT INTO secmon.step_usage (run_id, step_key, attempt, job_name, op_name,
                      enforcement, limits, outcome, wall_seconds, ended_at)
                    VALUES ('r{number}', 's', 1, 'j', 'o', 'cgroup2', '{{}}', 'success', 1,
                            {moment})"""
            )
        found = recorder.collect()
    steps = value(found, "secmon_steps_total", '{"job":"j","op":"o","outcome":"success"}')
    assert steps == 3


def test_a_flood_of_label_values_ends_in_other(event: Add, database: Database) -> None:
    with database.admin() as connection:
        connection.execute(
            """INSERT INTO secmon.vecsec_events (kind, type)
               SELECT 'rlsa_violation', 'made-up-' || n FROM generate_series(1, 500) n"""
        )
    found = Recorder().collect()
    series = [s for s in found.totals if s[0] == "vecsec_rlsa_violations_total"]
    assert len(series) == MAX_SERIES + 1
    assert value(found, "vecsec_rlsa_violations_total", '{"category":"other"}') == 300


def test_a_restart_of_the_exporter_makes_no_room_for_more_label_values(
    event: Add, database: Database
) -> None:
    for start in (1, 301):
        with database.admin() as connection:
            connection.execute(
                """INSERT INTO secmon.vecsec_events (kind, type)
                   SELECT 'rlsa_violation', 'made-up-' || n
                     FROM generate_series(%s, %s::int + 299) n""",
                [start, start],
            )
        found = Recorder().collect()
    series = [s for s in found.totals if s[0] == "vecsec_rlsa_violations_total"]
    assert len(series) == MAX_SERIES + 1
    assert value(found, "vecsec_rlsa_violations_total", '{"category":"other"}') == 400


def test_a_missing_table_silences_only_its_own_metrics(event: Add, database: Database) -> None:
    event()
    with database.admin() as connection:
        connection.execute("DROP TABLE secmon.monitoring_history CASCADE")
        connection.execute("DROP TABLE secmon.drift_metrics CASCADE")
    assert value(Recorder().collect(), "vecsec_inference_total") == 1


def test_no_database_is_one_named_error(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    monkeypatch.setattr("secmon_dagster.database.sessions.POOL_WAIT_SECONDS", 0.5)
    with pytest.raises(DatabaseError):
        Recorder().collect()


def test_every_query_of_every_source_and_gauge_runs_on_the_real_schema(database: Database) -> None:
    with database.admin() as connection:
        connection.execute(
            """CREATE TABLE public.runs (run_id text, pipeline_name text, status text,
                 create_timestamp timestamp, update_timestamp timestamp);
               CREATE TABLE public.daemon_heartbeats (daemon_type text, timestamp timestamp);
               CREATE TABLE public.job_ticks (id bigint, type text, tick_body text, status text);
               INSERT INTO public.runs VALUES
                 ('r1', 'train', 'SUCCESS', now() - interval '1 h', now()),
                 ('r2', 'train', 'QUEUED', (now() AT TIME ZONE 'UTC') - interval '90 s', now());
               INSERT INTO public.daemon_heartbeats
                 VALUES ('SENSOR', (now() AT TIME ZONE 'UTC') - interval '30 s');
               INSERT INTO public.job_ticks VALUES
                 (1, 'SENSOR', '{"instigator_name": "due"}', 'STARTED'),
                 (2, 'SENSOR', '{"instigator_name": "due"}', 'SUCCESS')"""
        )
        recorder = Recorder()
        recorder.collect()
        connection.execute("UPDATE public.job_ticks SET status = 'SKIPPED' WHERE id = 1")
        found = recorder.collect()
    assert value(found, "secmon_dagster_runs_total", '{"job":"train","state":"SUCCESS"}') == 1
    for status in ("SKIPPED", "SUCCESS"):
        labels = f'{{"kind":"sensor","name":"due","status":"{status}"}}'
        assert value(found, "secmon_dagster_ticks_total", labels) == 1
    assert found.gauges[("secmon_dagster_queue_depth", "{}")] == 1
    assert found.gauges[("secmon_dagster_oldest_queued_seconds", "{}")] == pytest.approx(90, abs=20)
    age = ("secmon_dagster_daemon_heartbeat_age_seconds", '{"daemon":"SENSOR"}')
    assert found.gauges[age] == pytest.approx(30, abs=20)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_each_observation_falls_into_exactly_one_bucket(values: list[float]) -> None:
    name = "secmon_gate_check_seconds"
    parts = spread([Increment(name, {"script": "s"}, value) for value in values])
    buckets = [total.value for (part, _), total in parts.items() if part.endswith("_bucket")]
    assert sum(buckets) == len(values)


def test_metric_names_follow_prometheus_conventions() -> None:
    for name, metric in METRICS.items():
        assert name.startswith(("vecsec_", "secmon_"))
        assert (metric.kind is Kind.COUNTER) == name.endswith("_total")
    assert len({source.name for source in SOURCES}) == len(SOURCES)
