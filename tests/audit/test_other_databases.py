"""The same chain in SQLite and MySQL: same hashes, same checkpoints, weaker guards."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from secmon_dagster.audit import HashChainAuditLogger, Query, get_audit_logger
from secmon_dagster.audit.backends import sqlite
from secmon_dagster.audit.backends.mysql import MysqlStore
from secmon_dagster.audit.encoding import expected_hash
from secmon_dagster.audit.export_check import check_export
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.errors import DatabaseUnavailableError, EntryRefusedError, InvalidInputError

ENTRY = {"action": "A", "actor": "a", "resource_type": "t"}


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.xdist_group("mariadb"))])
def url(request, tmp_path, home):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'audit.db'}"
    server = request.getfixturevalue("mariadb")
    with MysqlStore(server)._connect() as connection, connection.cursor() as cursor:
        for table in ("audit_entries", "audit_head", "audit_checkpoints"):
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
    return server


@pytest.fixture
def log(url):
    with HashChainAuditLogger(url) as logger:
        yield logger


def execute(log, *statements):
    with log.store._connection() as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)


def test_the_whole_life_of_a_chain(log, home, tmp_path):
    entry_id = log.append_entry(
        "DEPLOY", "ml_platform", "model", "credit_risk_v3", {"auc": 0.92}, {"environment": "é"}
    )
    log.append_entries([ENTRY | {"resource_id": ""} for _ in range(9)])
    entry = log.get_entry(entry_id)
    assert expected_hash(entry).hex() == entry.entry_hash
    assert (entry.seq, entry.to_dict()["data"]) == (1, {"auc": 0.92})
    publication = log.checkpoint()
    assert publication.size == 10
    assert log.rollback_to_hash(log.find(Query())[7].entry_hash) == (True, 2)
    assert [found.seq for found in log.find(Query())] == [1, 2, 3, 4, 5, 6, 7, 8, 11]
    assert log.get_resource_trail("model", "credit_risk_v3") == [entry]
    result = log.verify_chain()
    assert (result["valid"], result["checkpoint_size"], result["superseded"]) == (True, 10, 2)
    assert log.verify_chain(since_checkpoint=True)["verified_entries"] == 1
    statistics = log.get_statistics()
    assert (statistics["total_entries"], statistics["unique_actors"]) == (11, 3)
    with (tmp_path / "x.csv").open("w") as file:
        log.export_to(file.write, "csv")
    ring = KeyRing.load(home / "keys" / "audit.pub")
    assert check_export(tmp_path / "x.csv", ring).verdict == "valid"
    assert log.prove(entry_id)["kind"] == "inclusion"


def test_appending_twice_is_appending_once(log):
    log.append_entry("A", "a", "t", entry_id="once")
    log.append_entries([ENTRY | {"entry_id": "once"}, ENTRY | {"entry_id": "new"}])
    with pytest.raises(EntryRefusedError, match="'once' names another entry"):
        log.append_entry("B", "a", "t", entry_id="once")
    assert log.head().seq == 2


def test_many_writers_of_several_loggers_make_one_chain(url):
    loggers = [HashChainAuditLogger(url) for _ in range(3)]

    def write(log):
        for _ in range(20):
            log.append_entry("A", "a", "t")

    threads = [threading.Thread(target=write, args=(log,)) for log in loggers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = loggers[0].verify_chain()
    assert (result["valid"], result["verified_entries"]) == (True, 120)
    for log in loggers:
        log.close()


def test_edits_are_refused_and_without_the_triggers_found(log):
    log.append_entries([ENTRY] * 5)
    log.checkpoint()
    for statement in ("UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries"):
        with pytest.raises(Exception, match="append-only"):
            execute(log, statement)
    execute(log, "DROP TRIGGER audit_entries_no_update", "DROP TRIGGER audit_entries_no_delete")
    execute(log, "UPDATE audit_entries SET resource_id = '' WHERE seq = 2")
    assert [entry["seq"] for entry in log.verify_chain()["invalid_entries"]] == [2]
    execute(log, "DELETE FROM audit_entries WHERE seq > 3")
    problems = {entry["problem"] for entry in log.verify_chain()["checkpoint_problems"]}
    assert problems == {"checkpoint_root"}


def test_what_is_weaker_is_said(log):
    said = log.describe_guarantees()
    assert any("not detected" in answer for answer in said.values())
    with pytest.raises(InvalidInputError, match="no partitions to archive"):
        log.archive()


def test_the_printed_sqlite_example_runs(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = get_audit_logger(database_url="sqlite:///audit.db")
    logger.append_entry(
        action="DEPLOY", actor="ml_platform", resource_type="model",
        resource_id="credit_risk_v3",
        data={"model_file": "s3://models/credit_risk_v3.pkl", "metrics": {"auc": 0.92, "ks": 0.45}},
        details={"environment": "production"},
    )  # fmt: skip
    assert logger.verify_chain()["valid"]
    assert sqlite3.connect("audit.db").execute("SELECT count(*) FROM audit_entries").fetchone() == (
        1,
    )


def test_a_file_that_is_no_database_or_can_not_be_made_is_refused(tmp_path, home):
    (tmp_path / "text").write_text("hello " * 100)
    for path in (tmp_path / "text", tmp_path / "missing" / "x.db"):
        with pytest.raises(DatabaseUnavailableError, match="can't be opened"):
            HashChainAuditLogger(f"sqlite:///{path}")


def test_a_mysql_server_that_does_not_answer_is_named_without_the_password(home):
    with pytest.raises(DatabaseUnavailableError, match=r"MySQL at 127\.0\.0\.1") as caught:
        HashChainAuditLogger("mysql://u:secret@127.0.0.1:1/audit_db")
    assert "secret" not in str(caught.value)


def test_a_writing_connection_that_died_is_replaced(log):
    log.append_entry("A", "a", "t")
    log.store._writer.close()
    log.append_entry("B", "a", "t")
    assert [entry.action for entry in log.find(Query())] == ["A", "B"]


@pytest.mark.xdist_group("mariadb")
def test_a_connection_that_mysql_closed_is_replaced(mariadb, home):
    with HashChainAuditLogger(mariadb) as log:
        entry_id = log.append_entry("A", "a", "t")
        with log.store._connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"KILL {log.store._writer.thread_id()}")
        other = log.append_entry("A", "a", "t")
        assert log.get_entry(other).seq == log.get_entry(entry_id).seq + 1


def test_a_file_that_another_program_holds_is_a_clear_error_and_no_end(tmp_path, home, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with HashChainAuditLogger(f"sqlite:///{tmp_path / 'audit.db'}") as log:
        holder = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError, match="sqlite did not take it: .*locked"):
            log.append_entry("A", "a", "t")
        holder.execute("ROLLBACK")
        log.append_entry("A", "a", "t")
        assert log.verify_chain()["verified_entries"] == 1


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite://", "sqlite:///"])
def test_sqlite_without_a_file_is_refused(url):
    with pytest.raises(InvalidInputError, match="allowed: sqlite:///FILE"):
        HashChainAuditLogger(url)
