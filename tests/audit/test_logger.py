from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from secmon_dagster.audit import HashChainAuditLogger, Query, enqueue, get_audit_logger
from secmon_dagster.audit.store import BULK
from secmon_dagster.database import Role, connect, transaction
from secmon_dagster.errors import (
    DatabaseUnavailableError,
    EntryRefusedError,
    InvalidInputError,
    PermissionDeniedError,
)


@pytest.fixture
def log(database):
    with HashChainAuditLogger() as logger:
        yield logger


def test_an_entry_comes_back_as_it_was_appended(log):
    entry_id = log.append_entry(
        action="UPDATE",
        actor="data_scientist_1",
        resource_type="model",
        resource_id="model_prod_v2",
        data={"config": {"threshold": 0.85}},
        details={"reason": "Threshold optimization"},
    )
    entry = log.get_entry(entry_id)
    assert (entry.seq, entry.action, entry.actor) == (1, "UPDATE", "data_scientist_1")
    assert (entry.resource_type, entry.resource_id) == ("model", "model_prod_v2")
    assert entry.to_dict()["data"] == {"config": {"threshold": 0.85}}
    assert entry.to_dict()["details"] == {"reason": "Threshold optimization"}
    assert (entry.level, entry.previous_hash) == ("info", "00" * 32)
    assert abs((datetime.now(UTC) - entry.timestamp).total_seconds()) < 60


def test_an_intact_chain_is_valid_with_the_printed_keys(log):
    log.append_entries([{"action": "A", "actor": "a", "resource_type": "t"}] * 10)
    result = log.verify_chain()
    assert {key: result[key] for key in (
        "valid", "total_entries", "verified_entries", "invalid_entries", "chain_breaks"
    )} == {
        "valid": True, "total_entries": 10, "verified_entries": 10,
        "invalid_entries": [], "chain_breaks": [],
    }  # fmt: skip


def test_an_empty_chain_is_valid(log):
    assert log.verify_chain()["valid"] is True


def test_the_same_entry_id_appends_once(log):
    first = log.append_entry("A", "a", "t", data={"x": 1}, entry_id="once")
    assert log.append_entry("A", "a", "t", data={"x": 1}, entry_id="once") == first
    ids = log.append_entries(
        [{"action": "A", "actor": "a", "resource_type": "t", "data": {"x": 1}, "entry_id": "once"},
         {"action": "B", "actor": "a", "resource_type": "t", "entry_id": "twice"},
         {"action": "B", "actor": "a", "resource_type": "t", "entry_id": "twice"}]
    )  # fmt: skip
    assert ids == ["once", "twice", "twice"]
    assert log.head().seq == 2


def test_an_entry_id_that_names_another_entry_is_refused(log):
    log.append_entry("A", "a", "t", entry_id="once")
    with pytest.raises(EntryRefusedError, match="names another entry"):
        log.append_entry("B", "a", "t", entry_id="once")
    assert log.head().seq == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"action": ""}, "action is ''"),
        ({"action": " "}, "action is ' '"),
        ({"actor": None}, "actor is None"),
        ({"actor": "a\0b"}, r"actor contains the character U\+0000"),
        ({"actor": "\ud800"}, "actor contains a lone surrogate"),
        ({"action": "x" * 1025}, "action has 1025 bytes; allowed: at most 1024"),
        ({"resource_id": 7}, "resource_id is a int"),
        ({"level": "fatal"}, "level is 'fatal'; allowed: info, warn, error, critical"),
        ({"level": "INFO"}, "level is 'INFO'"),
        ({"event_type": ""}, "event_type is ''"),
        ({"data": object()}, "data is a object"),
        ({"data": {"a": {1, 2}}}, r"data\.a is a set"),
        ({"data": {"a": [b"x"]}}, r"data\.a\[0\] is a bytes"),
        ({"data": {1: "x"}}, "data has the key 1 of type int"),
        ({"data": {"a": "\ud800"}}, r"data\.a contains a lone surrogate"),
        ({"data": {"a": "\0"}}, r"data contains the character U\+0000"),
        ({"details": "x" * 10_000_000}, "details has 10000002 bytes as canonical JSON"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_by_name_and_leaves_no_trace(
    shared_chain, arguments, complaint
):
    log = shared_chain.log
    with pytest.raises(EntryRefusedError, match=complaint):
        log.append_entry(**({"action": "A", "actor": "a", "resource_type": "t"} | arguments))
    assert log.head().seq == 0


def test_what_json_lacks_has_a_stated_form(log):
    entry_id = log.append_entry(
        "A", "a", "t", data={
            "nan": float("nan"), "inf": [float("inf"), -np.inf], "big": 2**53, "np": np.int64(3),
            "array": np.array([[1.5, 2]]), "when": datetime(2026, 1, 30, tzinfo=UTC),
        },
    )  # fmt: skip
    assert json.loads(log.get_entry(entry_id).data) == {
        "nan": "NaN", "inf": ["Infinity", "-Infinity"], "big": "9007199254740992", "np": 3,
        "array": [[1.5, 2]], "when": "2026-01-30T00:00:00+00:00",
    }  # fmt: skip


def test_a_bad_entry_in_a_batch_appends_none(log):
    with pytest.raises(EntryRefusedError):
        log.append_entries(
            [{"action": "A", "actor": "a", "resource_type": "t"}, {"action": "", "actor": "a",
              "resource_type": "t"}]
        )  # fmt: skip
    with pytest.raises(EntryRefusedError, match="entry 0 of the batch.*colour"):
        log.append_entries([{"action": "A", "actor": "a", "resource_type": "t", "colour": 1}])
    assert log.head().seq == 0


def test_a_bulk_append_that_failed_is_told_even_if_a_later_entry_is_wrong(log, monkeypatch):
    good = {"action": "A", "actor": "a", "resource_type": "t"}

    def lost(*_):
        raise DatabaseUnavailableError("the server is gone")

    monkeypatch.setattr(log.store, "_send", lost)
    with pytest.raises(DatabaseUnavailableError, match="is gone") as failed:
        log.append_entries([*[good] * BULK, good | {"action": ""}])
    assert isinstance(failed.value.__context__, EntryRefusedError)


def test_a_bulk_append_of_large_payloads_takes_several_transactions(log):
    entry = {"action": "A", "actor": "a", "resource_type": "t", "data": "x" * 1_000_000}
    log.append_entries([entry] * 20)
    moments = [entry.timestamp for entry in log.find(Query())]
    assert [moments.count(moment) for moment in sorted(set(moments))] == [9, 9, 2]


@pytest.mark.parametrize("url", [None, "sqlite:///audit.db"])
def test_a_caller_may_not_append_an_action_of_the_log_itself(log, url, tmp_path, monkeypatch):
    """A rollback nobody did would hide entries, and one without its data would stop all reading."""
    monkeypatch.chdir(tmp_path)
    entry = {"action": "log.rollback", "actor": "a", "resource_type": "t", "data": {"to_seq": 0}}
    with HashChainAuditLogger(url) as chain:
        for append in (
            lambda: chain.append_entry(**entry),
            lambda: asyncio.run(chain.append_entry_async(**entry)),
            lambda: chain.append_entries([entry]),
        ):
            with pytest.raises(EntryRefusedError, match="log.* belongs to the log itself"):
                append()
        assert chain.head().seq == 0


def test_trails_and_queries_find_what_they_ask_for(log):
    log.append_entry("CREATE", "ann", "model", "m1", execution_id="run1", job_id="step1")
    log.append_entry("UPDATE", "bob", "model", "m1", level="error", event_type="job.failed")
    log.append_entry("UPDATE", "ann", "model", "m2")

    def seqs(**conditions):
        return [entry.seq for entry in log.find(Query(**conditions))]

    assert [entry.seq for entry in log.get_actor_trail("ann")] == [1, 3]
    assert [entry.seq for entry in log.get_resource_trail("model", "m1")] == [1, 2]
    assert [entry.seq for entry in log.get_resource_trail("model")] == [1, 2, 3]
    assert seqs(action="UPDATE", actor="bob") == [2]
    assert seqs(level="error") == seqs(event_type="job.failed") == [2]
    assert seqs(execution_id="run1") == seqs(job_id="step1") == [1]
    assert seqs(after_seq=1, limit=1) == [2]
    assert seqs(newest_first=True) == [3, 2, 1]
    moment = log.find(Query(after_seq=1))[0].timestamp
    assert seqs(since=moment) == [2, 3]
    assert seqs(until=moment) == [1, 2]
    assert seqs(actor="a' OR TRUE --") == []


def test_statistics_count(log):
    log.append_entries(
        [{"action": "UPDATE", "actor": f"a{i % 3}", "resource_type": "t"} for i in range(6)]
    )
    log.append_entry("CREATE", "a0", "t", level="critical")
    stats = log.get_statistics()
    assert (stats["total_entries"], stats["unique_actors"]) == (7, 3)
    assert stats["action_counts"] == {"UPDATE": 6, "CREATE": 1}
    assert stats["level_counts"] == {"critical": 1, "info": 6}


def test_a_rollback_hides_and_commits_but_loses_nothing(log):
    ids = log.append_entries(
        [{"action": f"A{i}", "actor": "a", "resource_type": "t"} for i in range(5)]
    )
    kept, last = log.get_entry(ids[1]), log.get_entry(ids[4])
    assert log.rollback_to_hash(kept.entry_hash, actor="ann", reason="bad import") == (True, 3)
    marker = log.find(Query(action="log.rollback"))[0].to_dict()
    assert marker["data"] == {
        "count": 3, "to_seq": 2, "to_hash": kept.entry_hash,
        "from_seq": 5, "from_hash": last.entry_hash,
    }  # fmt: skip
    assert (marker["actor"], marker["details"]) == ("ann", {"reason": "bad import"})
    assert [entry.seq for entry in log.find(Query())] == [1, 2, 6]
    assert [entry.seq for entry in log.find(Query(include_superseded=True))] == [1, 2, 3, 4, 5, 6]
    result = log.verify_chain()
    assert (result["valid"], result["total_entries"], result["superseded"]) == (True, 6, 3)


def test_rolling_back_to_the_last_entry_or_to_none_changes_nothing(log):
    entry = log.get_entry(log.append_entry("A", "a", "t"))
    assert log.rollback_to_hash(entry.entry_hash) == (True, 0)
    assert log.rollback_to_hash("00" * 32) == (False, 0)
    with pytest.raises(InvalidInputError, match="hash is 'xyz'"):
        log.rollback_to_hash("xyz")
    assert log.head().seq == 1


def test_nested_rollbacks_supersede_the_union(log):
    ids = log.append_entries([{"action": "A", "actor": "a", "resource_type": "t"}] * 6)
    log.rollback_to_hash(log.get_entry(ids[3]).entry_hash)
    log.rollback_to_hash(log.get_entry(ids[1]).entry_hash)
    assert [entry.seq for entry in log.find(Query())] == [1, 2, 8]
    assert log.verify_chain()["superseded"] == 5


def test_an_outbox_entry_and_its_transaction_share_their_fate(log):
    with transaction() as committed:
        kept = enqueue(committed, action="A", actor="a", resource_type="t", data={"x": 1})
    with pytest.raises(ZeroDivisionError), transaction() as failed:
        lost = enqueue(failed, action="B", actor="a", resource_type="t")
        1 / 0  # noqa: B018
    assert log.head().seq == 0
    assert log.verify_chain()["outbox"] == 1
    assert log.sequence() == 1
    assert log.get_entry(kept).action == "A"
    assert log.get_entry(lost) is None
    assert log.verify_chain()["outbox"] == 0


def test_an_outbox_entry_whose_id_is_taken_is_kept_under_another(log):
    log.append_entry("A", "a", "t", entry_id="taken")
    with transaction() as connection:
        enqueue(connection, action="B", actor="a", resource_type="t", entry_id="taken")
        enqueue(connection, action="C", actor="a", resource_type="t", entry_id="free")
    assert log.sequence() == 2
    assert [entry.action for entry in log.find(Query())] == ["A", "B", "C"]


LONG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i)"


@pytest.mark.parametrize(
    "column", ["entry_id", "event_type", "action", "actor", "resource_type", "resource_id",
               "execution_id", "job_id"],
)  # fmt: skip
def test_a_row_that_would_not_fit_into_the_chain_is_refused_by_the_outbox(database, column):
    values = dict.fromkeys(["entry_id", "action", "actor", "resource_type"], "'x'") | {column: LONG}
    with connect(Role.WRITER) as writer, pytest.raises(psycopg.errors.CheckViolation):
        writer.execute(
            f"INSERT INTO audit_outbox (level, {', '.join(values)})"
            f" VALUES ('info', {', '.join(values.values())})"
        )


def test_names_taken_in_advance_do_not_stop_the_sequencer(log):
    for taken in ["same", *(f"same#outbox-{number}" for number in range(1, 5))]:
        log.append_entry("A", "mallory", "t", entry_id=taken)
    with transaction() as connection:
        enqueue(connection, action="B", actor="a", resource_type="t", entry_id="same")
        enqueue(connection, action="C", actor="a", resource_type="t")
    assert log.sequence() == 2
    assert [entry.action for entry in log.find(Query(actor="a"))] == ["B", "C"]


def test_two_acts_under_one_id_are_both_kept_and_one_told_twice_is_one(log):
    for action in ("ONE", "ONE", "TWO"):
        with transaction() as connection:
            enqueue(connection, action=action, actor="a", resource_type="t", entry_id="same")
    assert log.sequence() == 3
    assert [entry.action for entry in log.find(Query())] == ["ONE", "TWO"]


def test_large_rows_leave_the_outbox_in_several_transactions(log):
    with transaction() as connection:
        for _ in range(70):
            enqueue(connection, action="A", actor="a", resource_type="t", data="x" * 1_000_000)
    assert [log.sequence(), log.sequence(), log.sequence()] == [68, 2, 0]


def test_a_rollback_whose_answer_was_lost_is_not_done_twice(log):
    ids = log.append_entries([{"action": "A", "actor": "a", "resource_type": "t"}] * 5)
    target = bytes.fromhex(log.get_entry(ids[1]).entry_hash)
    answer = log.store.rollback(target, "marker", "a", None)
    assert answer == (6, 3)
    assert log.store.rollback(target, "marker", "a", None) == answer
    assert log.head().seq == 6


def test_actions_of_the_log_itself_are_refused_to_writers(database, log):
    with transaction() as connection, pytest.raises(EntryRefusedError, match="belongs to the log"):
        enqueue(connection, action="log.rollback", actor="a", resource_type="t")
    with connect(Role.WRITER, autocommit=True) as writer:
        arrays = [["id"], ["info"], [None], ["log.rollback"], ["a"], ["t"], *[[None]] * 5]
        with pytest.raises(Exception, match=r"actions log\.\* belong to the log itself"):
            writer.execute(
                f"SELECT secmon.audit_append_batch({', '.join(['%s::text[]'] * 11)})", arrays
            )


def test_threads_and_coroutines_share_the_chain(log):
    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(lambda i: log.append_entry("A", f"a{i}", "t"), range(300)))

    async def many():
        return await asyncio.gather(
            *[log.append_entry_async("B", f"b{i}", "t", level="warn") for i in range(100)]
        )

    ids += asyncio.run(many())
    assert len(set(ids)) == 400
    assert log.verify_chain()["valid"]
    assert log.head().seq == 400


def test_a_forked_child_appends_with_connections_of_its_own(log):
    log.append_entry("A", "parent", "t")
    child = os.fork()
    if child == 0:
        try:
            log.append_entry("A", "child", "t")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    log.append_entry("A", "parent", "t")
    assert [entry.actor for entry in log.find(Query())] == ["parent", "child", "parent"]


def test_threads_of_a_forked_child_never_meet_the_parents_connection(log):
    log.append_entry("A", "parent", "t")
    inherited, failures = log.store._writer, 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            sys.setswitchinterval(1e-6)
            start, seen = threading.Barrier(4), []

            def write(start=start, seen=seen):
                start.wait()
                with contextlib.suppress(Exception):
                    log.store._write(seen.append)

            threads = [threading.Thread(target=write) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            os._exit(len(seen) != 4 or any(connection is inherited for connection in seen))
        failures += os.waitpid(child, 0)[1] != 0
    assert failures == 0


def test_a_coroutine_that_gives_up_waiting_stops_nobody_else(log, monkeypatch):
    under_way, go_on = threading.Event(), threading.Event()
    append = log._appender._append_batch

    def slowly(drafts):
        under_way.set()
        go_on.wait(10)
        return append(drafts)

    monkeypatch.setattr(log._appender, "_append_batch", slowly)

    async def give_up():
        sent = asyncio.create_task(log.append_entry_async("SENT", "a", "t"))
        await asyncio.to_thread(under_way.wait)
        queued = asyncio.create_task(log.append_entry_async("QUEUED", "a", "t"))
        await asyncio.sleep(0)
        for task in (sent, queued):
            task.cancel()
        await asyncio.gather(sent, queued, return_exceptions=True)
        go_on.set()
        await asyncio.wait_for(log.append_entry_async("NEXT", "a", "t"), 20)

    asyncio.run(give_up())
    # What was sent can't be called back; what had not been sent is not.
    assert [entry.action for entry in log.find(Query())] == ["SENT", "NEXT"]


def test_the_process_has_one_logger_a_database(database):
    assert get_audit_logger() is get_audit_logger()


def test_another_database_gets_its_schema_at_first_use(database):
    with database.admin() as admin:
        admin.execute("CREATE DATABASE elsewhere")
        url = database.url.replace(admin.info.dbname, "elsewhere")
    with HashChainAuditLogger(database_url=url, pool_size=20, max_overflow=40) as elsewhere:
        elsewhere.append_entry("A", "a", "t")
        assert elsewhere.verify_chain()["valid"]
    with database.admin() as admin:
        admin.execute("DROP DATABASE elsewhere WITH (FORCE)")


@pytest.mark.parametrize("url", ["oracle://u:secret@h/db", "nonsense", "http://x"])
def test_a_url_of_another_kind_is_refused_without_showing_it(url):
    with pytest.raises(
        InvalidInputError, match=r"allowed: postgresql://…, sqlite:///FILE"
    ) as caught:
        HashChainAuditLogger(url)
    assert "secret" not in str(caught.value)


def test_a_reader_sees_only_own_entries(log):
    log.append_entry("A", "ann", "t")
    log.append_entry("A", "bob", "t")
    with connect(Role.READER, user_id="ann") as reader:
        assert reader.execute("SELECT actor FROM audit_entries").fetchall() == [("ann",)]
        assert reader.execute("SELECT user_id FROM dag_audit_logs").fetchall() == [("ann",)]
    with connect(Role.READER) as nobody:
        assert nobody.execute("SELECT actor FROM audit_entries").fetchall() == []


def test_a_reader_may_not_append(database, monkeypatch):
    from secmon_dagster.audit.backends.postgres import PostgresStore
    from secmon_dagster.audit.entry import Draft

    store = PostgresStore(role=Role.READER)
    with pytest.raises(PermissionDeniedError, match="permission denied"):
        store.append([Draft.of("A", "a", "t")])
    store.close()
