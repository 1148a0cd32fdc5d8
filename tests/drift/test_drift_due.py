"""Due times: clock changes, catching up, and exactly one check per due time."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from secmon_dagster.database import close_pools, transaction
from secmon_dagster.drift import CatchUp, ModelDriftConfig
from secmon_dagster.drift.due import due_times, next_due, plan
from secmon_dagster.drift.registry import LEASE, DueCheck, claim_due, register
from secmon_dagster.drift.store import begin_check
from secmon_dagster.drift.vocabulary import ExecutionStatus
from secmon_dagster.errors import InvalidInputError

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the clock goes from 2 to 3 on March 29, 01:00 UTC
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)  # and from 3 to 2 on October 25, 01:00 UTC

EGYPT = datetime(2026, 4, 23, 12, tzinfo=UTC)


def dues(cron: str, zone: str, start: datetime, days: float) -> list[str]:
    place = ZoneInfo(zone)
    first = next_due(cron, place, start)
    times = due_times(cron, place, first, start + timedelta(days=days))
    return [moment.strftime("%d %H:%M") for moment in times]


@pytest.mark.parametrize(
    ("cron", "zone", "start", "expected"),
    [
        ("0 0 * * *", "Europe/Berlin", SPRING, ["28 23:00", "29 22:00"]),
        ("0 0 * * *", "Europe/Berlin", AUTUMN, ["24 22:00", "25 23:00"]),
        # Half past two does not exist that night: it happens an hour later on the clock.
        ("30 2 * * *", "Europe/Berlin", SPRING, ["29 01:30", "30 00:30"]),
        # Half past two happens twice: the first counts.
        ("30 2 * * *", "Europe/Berlin", AUTUMN, ["25 00:30", "26 01:30"]),
        # Midnight itself is jumped over.
        (
            "0 0 * * *",
            "Africa/Cairo",
            datetime(2026, 4, 23, 12, tzinfo=UTC),
            ["23 22:00", "24 21:00"],
        ),
    ],
)
def test_a_time_of_day_happens_once_a_day(
    cron: str, zone: str, start: datetime, expected: list[str]
) -> None:
    assert dues(cron, zone, start, 1.8)[:2] == expected


@pytest.mark.parametrize("start", [SPRING, AUTUMN])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"])
def test_hourly_follows_elapsed_time_where_the_zone_moves_by_whole_hours(
    start: datetime, zone: str
) -> None:
    place = ZoneInfo(zone)
    times = due_times("0 * * * *", place, next_due("0 * * * *", place, start), start + timedelta(2))
    steps = {later - earlier for earlier, later in pairwise(times)}
    assert steps == {timedelta(hours=1)}


def test_weekly_is_monday_midnight_on_the_clock_of_the_zone() -> None:
    monday = next_due("0 0 * * 1", ZoneInfo("America/New_York"), SPRING)
    assert (
        monday.astimezone(ZoneInfo("America/New_York")).isoformat() == "2026-03-30T00:00:00-04:00"
    )


def test_times_the_clock_jumped_over_all_come_even_where_it_jumps_two_hours() -> None:
    start = datetime(2024, 3, 30, 12, tzinfo=UTC)  # Troll goes from 1 to 3 on March 31, 01:00 UTC
    expected = ["31 01:15", "31 01:45", "31 02:15", "31 02:45"]
    assert dues("15,45 1-2 * * *", "Antarctica/Troll", start, 1) == expected


def test_a_schedule_that_never_comes_due_is_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidInputError, match="ever comes due"):
        next_due("0 0 30 2 *", BERLIN, SPRING)


def test_what_was_missed_is_caught_up_by_policy() -> None:
    now = datetime(2026, 5, 1, 12, 1, tzinfo=UTC)
    times = due_times("0 * * * *", ZoneInfo("UTC"), now.replace(hour=9, minute=0), now)
    late = now + timedelta(minutes=20)

    def states(policy: CatchUp, at: datetime = now, *, enabled: bool = True) -> list[str]:
        return [str(status) for _, status, _ in plan(times, policy, at, enabled=enabled)]

    assert states(CatchUp.ALL) == ["pending"] * 4
    assert states(CatchUp.LATEST) == ["skipped"] * 3 + ["pending"]
    assert states(CatchUp.SKIP) == ["skipped"] * 3 + ["pending"]
    assert states(CatchUp.SKIP, late) == ["skipped"] * 4
    assert states(CatchUp.ALL, enabled=False) == ["skipped"] * 4


def configure(model_id: str, now: datetime, **given: Any) -> None:
    register(ModelDriftConfig(model_id, "1", **given), now)


def take(check: DueCheck, now: datetime) -> bool:
    with transaction() as connection:
        return begin_check(connection, check.check_id, check.model_id, check.model_version, now=now)


def test_two_daemons_never_get_the_same_check(database: Any) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    for number in range(5):
        configure(f"m{number}", start, schedule_interval="hourly")
    now = start + timedelta(hours=1)
    first, second = claim_due(now), claim_due(now)
    assert len(first) == 5 and second == []


def test_a_check_whose_daemon_died_is_handed_out_again_and_run_once(database: Any) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    configure("churn", start, schedule_interval="hourly")
    now = start + timedelta(hours=1)
    (lost,) = claim_due(now)
    assert claim_due(now + LEASE / 2) == []
    (again,) = claim_due(now + LEASE)
    assert again == lost
    assert take(again, now) and not take(lost, now)


def test_only_the_latest_of_thousands_of_missed_checks_is_caught_up(database: Any) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    configure("churn", start, schedule_interval="custom", schedule_cron="*/5 * * * *")
    now = start + timedelta(days=10)
    claimed = [check for _ in range(5) for check in claim_due(now)]
    assert [check.due_at for check in claimed] == [now]
    with transaction() as connection:
        counted = connection.execute(
            "SELECT status, count(*) FROM drift_checks GROUP BY status ORDER BY status"
        ).fetchall()
    assert counted == [("pending", 1), ("skipped", 10 * 24 * 12 - 1)]


def test_a_disabled_model_is_recorded_as_skipped(database: Any) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    configure("churn", start, schedule_interval="hourly", enabled=False)
    assert claim_due(start + timedelta(hours=1)) == []
    with transaction() as connection:
        rows = connection.execute("SELECT status, reason FROM drift_checks").fetchall()
    assert rows == [("skipped", "the model is disabled")]


@pytest.mark.parametrize("minutes", [177, pytest.param(59, marks=pytest.mark.slow)])
def test_a_month_of_schedules_across_a_clock_change_runs_every_due_check_once(
    database: Any, minutes: int
) -> None:
    start, end = datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 4, 10, tzinfo=UTC)
    schedules: dict[str, dict[str, Any]] = {
        "hourly": {"schedule_interval": "hourly"},
        "daily": {"schedule_interval": "daily"},
        "weekly": {"schedule_interval": "weekly"},
        "cron": {"schedule_interval": "custom", "schedule_cron": "0 9 * * MON-FRI"},
        "gap": {"schedule_interval": "custom", "schedule_cron": "30 2 * * *"},
    }
    for name, schedule in schedules.items():
        configure(name, start, timezone="Europe/Berlin", catch_up=CatchUp.ALL, **schedule)
    ran: Counter[tuple[str, str]] = Counter()
    now, tick = start, 0
    while now < end:
        now = min(now + timedelta(minutes=minutes), end)
        tick += 1
        if timedelta(days=12) <= now - start < timedelta(days=13):
            continue  # both daemons are down for a day
        for daemon in (0, 1):
            for check in claim_due(now):
                if (tick + daemon) % 7 == 0:
                    continue  # this daemon is killed before it can start the run
                if take(check, now):
                    ran[check.model_id, check.due_at.isoformat()] += 1
    for check in claim_due(end + LEASE):
        if take(check, end):
            ran[check.model_id, check.due_at.isoformat()] += 1
    assert set(ran.values()) == {1}
    runs = Counter(model for model, _ in ran)
    days = 31
    assert runs == {"hourly": days * 24, "daily": days, "weekly": 4, "cron": 23, "gap": days}


def _daemon(now: datetime, name: str, ready: Any) -> None:
    ready.set()
    while True:
        for check in claim_due(now, limit=20):
            with transaction() as connection:
                if begin_check(connection, check.check_id, check.model_id, "1", now=now):
                    connection.execute(
                        """INSERT INTO drift_metrics (check_id, drift_type, name, sufficient)
                           VALUES (%s, 'input', %s, true)""",
                        (check.check_id, name),
                    )


def _run_daemons(rounds: int) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    for number in range(60):
        configure(f"m{number}", start, schedule_interval="hourly", catch_up=CatchUp.ALL)
    for hour in range(1, rounds + 1):
        # Each round a lease later, so that what a killed daemon held is handed out again.
        now = start + timedelta(hours=hour)
        close_pools()  # no connection and no pool thread is there to be inherited
        fork = multiprocessing.get_context("fork")
        started = [fork.Event() for _ in range(2)]
        daemons = [
            fork.Process(target=_daemon, args=(now, f"d{which}", ready), daemon=True)
            for which, ready in enumerate(started)
        ]
        for daemon in daemons:
            daemon.start()
        assert all(ready.wait(30) for ready in started)
        if hour == rounds:
            _wait_until_all_run(daemons, 60 * rounds)
        else:
            time.sleep(0.02 * hour)  # into the middle of their work
        for daemon in daemons:
            daemon.kill()
            daemon.join()


def _wait_until_all_run(daemons: list[Any], expected: int) -> None:
    while all(daemon.is_alive() for daemon in daemons):
        with transaction() as connection:
            states = Counter(
                row[0] for row in connection.execute("SELECT status FROM drift_checks").fetchall()
            )
        if states.total() >= expected and not states["pending"]:
            return
    raise AssertionError("a daemon ended by itself")


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_daemons_that_are_killed_lose_nothing_and_run_nothing_twice(
    database: Any, rounds: int
) -> None:
    _run_daemons(rounds)
    with transaction() as connection:
        rows = connection.execute(
            """SELECT c.status, count(m.check_id) FROM drift_checks c
                 LEFT JOIN drift_metrics m USING (check_id) GROUP BY c.check_id, c.status"""
        ).fetchall()
    assert len(rows) == 60 * rounds
    assert {(status, times) for status, times in rows} == {(str(ExecutionStatus.RUNNING), 1)}


def test_a_thousand_models_due_at_once_are_handed_out_within_five_seconds(database: Any) -> None:
    start = datetime(2026, 5, 1, tzinfo=UTC)
    configure("m0000", start, schedule_interval="hourly")
    with transaction() as connection:
        connection.execute(
            """INSERT INTO drift_models (model_id, model_version, schedule_interval, next_due)
               SELECT 'm' || lpad(n::text, 4, '0'), model_version, schedule_interval, next_due
                 FROM drift_models, generate_series(1, 999) n"""
        )
    began = datetime.now(UTC)
    checks = claim_due(start + timedelta(hours=1))
    assert len({check.run_key for check in checks}) == 1000
    assert datetime.now(UTC) - began < timedelta(seconds=5)
    assert claim_due(start + timedelta(hours=1)) == []
