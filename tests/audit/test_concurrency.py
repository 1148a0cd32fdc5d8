"""Many writers at once: no fork, no gap, no double, whatever the isolation level."""

from __future__ import annotations

import subprocess
import sys
import threading

import psycopg
import pytest

from secmon_dagster.audit import HashChainAuditLogger
from secmon_dagster.audit.backends import postgres
from secmon_dagster.database import Role, connect
from secmon_dagster.errors import AuditError

NULLS = ", ".join(["ARRAY[NULL]::text[]"] * 5)
CALL = (
    "SELECT secmon.audit_append_batch(ARRAY[%s], ARRAY['info'], ARRAY[NULL]::text[], ARRAY['A'],"
    f" ARRAY['a'], ARRAY['t'], {NULLS})"
)

WRITER = """
import sys, threading
from secmon_dagster.audit import HashChainAuditLogger
log = HashChainAuditLogger()
def write(thread):
    for number in range(int(sys.argv[3])):
        log.append_entry("A", f"process {sys.argv[1]} thread {thread}", "t", str(number))
threads = [threading.Thread(target=write, args=(t,)) for t in range(int(sys.argv[2]))]
[t.start() for t in threads]
[t.join() for t in threads]
"""


LEVELS = ("read committed", "repeatable read", "serializable")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("processes", "threads", "each"),
    [(2, 8, 10), pytest.param(4, 16, 100, marks=pytest.mark.slow)],
)
def test_processes_and_threads_append_one_chain(chain, level, processes, threads, each):
    """Whatever isolation the database gives its sessions: an append chooses its own."""
    chain.admin.execute(
        f"ALTER DATABASE {chain.admin.info.dbname} SET default_transaction_isolation = '{level}'"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, *map(str, (number, threads, each))])
        for number in range(processes)
    ]
    results = []
    while any(process.poll() is None for process in running):
        results.append(chain.log.verification(workers=1))  # while it grows
    assert [process.returncode for process in running] == [0] * processes
    assert all(result.verdict == "valid" for result in results)
    result = chain.verify()
    assert (result.verdict, result.verified_entries) == ("valid", processes * threads * each)
    in_order = chain.admin.execute(
        "SELECT bool_and(resource_id::int = place) FROM (SELECT resource_id,"
        " row_number() OVER (PARTITION BY actor ORDER BY seq) - 1 AS place"
        " FROM secmon.audit_entries) e"
    ).fetchone()[0]
    assert in_order


@pytest.mark.parametrize(
    ("level", "accepted"),
    [("READ COMMITTED", True), ("REPEATABLE READ", False), ("SERIALIZABLE", False)],
)
def test_under_other_isolation_levels_appends_are_refused_and_never_fork(chain, level, accepted):
    errors, done = set(), []

    def write(writer):
        with connect(Role.WRITER) as connection:
            for number in range(20):
                try:
                    connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                    connection.execute(CALL, (f"{writer}-{number}",))
                    connection.commit()
                    done.append(number)
                except psycopg.Error as refused:
                    errors.add(str(refused).splitlines()[0])
                    connection.rollback()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if accepted:
        assert (len(done), errors) == (80, set())
    else:
        assert done == []
        assert errors == {f"audit_append_batch under {level.lower()}; allowed: read committed"}
    result = chain.verify()
    assert (result.verdict, result.total_entries) == ("valid", len(done))


def test_a_foreign_client_encoding_is_refused(chain):
    with connect(Role.WRITER) as connection:
        connection.execute("SET client_encoding = 'LATIN1'")
        with pytest.raises(psycopg.Error, match="client_encoding is LATIN1; allowed: UTF8"):
            connection.execute(CALL, ("x",))


def test_a_head_that_another_session_holds_is_an_error_not_a_hang(chain, monkeypatch):
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 100)
    with HashChainAuditLogger() as log, chain.admin.transaction():
        chain.admin.execute("SELECT * FROM secmon.audit_head FOR UPDATE")
        with pytest.raises(AuditError, match="head was locked by another session for 100 ms"):
            log.append_entry("A", "a", "t")
    assert chain.verify().total_entries == 0


def test_a_clock_set_back_makes_time_stand_still(chain):
    chain.fill(1)
    chain.admin.execute("UPDATE secmon.audit_head SET timestamp = now() + interval '1 hour'")
    chain.fill(2)
    result = chain.verify()
    assert result.verdict == "valid"
    times = chain.admin.execute(
        "SELECT timestamp FROM secmon.audit_entries ORDER BY seq"
    ).fetchall()
    assert times == sorted(times)
    assert times[1] == times[2]


def test_a_bad_entry_in_a_group_costs_the_others_nothing(chain):
    chain.log.append_entry("A", "a", "t", entry_id="taken")
    barrier, refused = threading.Barrier(8), []

    def write(number):
        barrier.wait()
        for round_ in range(5):
            try:
                identity = "taken" if number == 0 else f"{number}-{round_}"
                chain.log.append_entry("B", "b", "t", entry_id=identity)
            except AuditError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert chain.verify().verified_entries == 1 + 7 * 5


def test_a_lost_connection_is_retried_without_doubling(chain):
    chain.fill(1)
    for _ in range(3):
        chain.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        chain.log.append_entry("A", "a", "t")
    result = chain.verify()
    assert (result.verdict, result.total_entries) == ("valid", 4)


def test_what_the_last_lines_of_a_schema_from_the_future_say(chain, monkeypatch):
    chain.admin.execute("DROP FUNCTION secmon.audit_append_batch CASCADE")
    with pytest.raises(Exception, match="audit_append_batch.*does not exist"):
        chain.log.append_entry("A", "a", "t")


@pytest.mark.parametrize(
    "entry_ids", ["ARRAY['x', 'y']", "'[0:0]={x}'::text[]", "ARRAY[ARRAY['x']]"]
)
def test_arrays_of_another_shape_are_refused(chain, entry_ids):
    with (
        connect(Role.WRITER) as connection,
        pytest.raises(psycopg.Error, match="not one-dimensional with subscripts 1 to"),
    ):
        connection.execute(CALL.replace("ARRAY[%s]", entry_ids))
