"""Who may do what to the log: role × statement × table, on the parent and on every partition."""

from __future__ import annotations

import psycopg
import pytest

from secmon_dagster.database import Role, connect

INSERT = (
    "INSERT INTO secmon.{table} (seq, previous_hash, timestamp, db_user, entry_id, level, action,"
    " actor, resource_type, entry_hash) VALUES (9, decode(repeat('00', 32), 'hex'), now(), 'x',"
    " 'x', 'info', 'A', 'a', 't', decode(repeat('00', 32), 'hex'))"
)
STATEMENTS = {
    "insert": INSERT,
    "update": "UPDATE secmon.{table} SET actor = 'x'",
    "delete": "DELETE FROM secmon.{table}",
    "truncate": "TRUNCATE secmon.{table}",
    "drop": "DROP TABLE secmon.{table} CASCADE",
    "alter": "ALTER TABLE secmon.{table} ADD COLUMN x int",
    "disable trigger": "ALTER TABLE secmon.{table} DISABLE TRIGGER ALL",
    "drop trigger": "DROP TRIGGER audit_no_change ON secmon.{table}",
    "drop truncate trigger": "DROP TRIGGER audit_no_truncate ON secmon.{table}",
    "rename": "ALTER TABLE secmon.{table} RENAME TO x",
    "disable row security": "ALTER TABLE secmon.{table} DISABLE ROW LEVEL SECURITY",
    "merge": "MERGE INTO secmon.{table} t USING (SELECT 1 AS seq) s ON t.seq >= s.seq"
    " WHEN MATCHED THEN UPDATE SET actor = 'x'",
}
FUNCTION_STATEMENTS = {
    "replica role": "SET session_replication_role = replica",
    "replace guard": "CREATE OR REPLACE FUNCTION secmon.audit_refuse_change() RETURNS trigger"
    " LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "replace append": "DROP FUNCTION secmon.audit_append_batch CASCADE",
    "rename append": "ALTER FUNCTION secmon.audit_append_batch RENAME TO x",
    "drop event trigger": "DROP EVENT TRIGGER secmon_audit_ddl",
    "rewrite head": "UPDATE secmon.audit_head SET seq = 0",
    "delete checkpoints": "DELETE FROM secmon.audit_checkpoints",
    "grow": "SELECT secmon.audit_grow()",
    "take the head's lock": "SELECT * FROM secmon.audit_head FOR UPDATE",
}


@pytest.fixture
def guarded(chain):
    # Small partitions, so that there are several.
    chain.admin.execute("DROP TABLE secmon.audit_entries_from_1")
    chain.admin.execute("UPDATE secmon.audit_head SET partition_entries = 5, partitioned_to = 0")
    chain.fill(8)
    chain.log.checkpoint()
    return chain


def tables(chain):
    rows = chain.admin.execute(
        "SELECT relname FROM pg_partition_tree('secmon.audit_entries')"
        " JOIN pg_class ON pg_class.oid = relid"
    ).fetchall()
    return [name for (name,) in rows]


def outcome(connection, statement):
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except psycopg.Error as refused:
        return refused.sqlstate
    return "allowed"


@pytest.mark.parametrize("role", [Role.WRITER, Role.READER, Role.SERVICE])
def test_application_roles_are_refused_every_statement_on_every_partition(guarded, role):
    assert len(tables(guarded)) == 3
    allowed = []
    with connect(role, autocommit=True) as connection:
        for table in tables(guarded):
            for name, statement in STATEMENTS.items():
                state = outcome(connection, statement.format(table=table))
                if state != "42501":
                    allowed.append((table, name, state))
        for name, statement in FUNCTION_STATEMENTS.items():
            state = outcome(connection, statement)
            if state != "42501":
                allowed.append((name, state))
    assert allowed == []
    assert guarded.verify().verdict == "valid"


def test_the_owner_may_insert_and_nothing_more(guarded):
    """What the owner inserts has no valid hash: verification finds it."""
    allowed = set()
    with connect(Role.OWNER, autocommit=True) as connection:
        for table in tables(guarded):
            for name, statement in STATEMENTS.items():
                if outcome(connection, statement.format(table=table)) == "allowed":
                    allowed.add(name)
        for name, statement in FUNCTION_STATEMENTS.items():
            if outcome(connection, statement) == "allowed":
                allowed.add(name)
    # The head is the owner's to write, for the append function runs as the owner.
    assert allowed == {"insert", "rewrite head", "grow", "take the head's lock"}


def test_an_owner_who_computes_the_hash_is_not_caught(guarded):
    """An expected miss of docs/threat-model.md: it adds an entry; what is there stays as it is."""
    said = "'info', NULL, 'A', 'ann', 't', NULL, NULL, NULL, NULL, NULL, NULL"
    with connect(Role.OWNER, autocommit=True) as owner:
        owner.execute(
            "WITH forged AS (SELECT seq + 1 AS seq, entry_hash AS before, secmon.audit_entry_hash("
            "seq + 1, entry_hash, '2020-01-01Z', secmon.audit_content_hash("
            f"ARRAY['somebody', 'forged', {said}])) AS hash FROM secmon.audit_head), moved AS ("
            "UPDATE secmon.audit_head h SET seq = f.seq, entry_hash = f.hash FROM forged f)"
            "INSERT INTO secmon.audit_entries"
            f" SELECT seq, before, '2020-01-01Z', 'somebody', 'forged', {said}, hash FROM forged"
        )
    assert guarded.verify().verdict == "valid"
    assert guarded.log.get_entry("forged").db_user == "somebody"


def test_a_superuser_is_stopped_by_the_guards_until_he_removes_them(guarded):
    states = {
        name: outcome(guarded.admin, STATEMENTS[name].format(table=table))
        for table in tables(guarded)
        for name in ("update", "delete", "truncate", "merge")
    }
    assert set(states.values()) == {"42501"}
    # Threat 4 of docs/threat-model.md: this is why checkpoints are kept elsewhere.
    with guarded.admin.transaction(force_rollback=True):
        guarded.admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        guarded.admin.execute("UPDATE secmon.audit_entries SET actor = 'x'")


def test_the_guards_hold_under_replica_role(guarded):
    guarded.admin.execute("SET session_replication_role = replica")
    for table in tables(guarded):
        for name in ("update", "delete", "truncate"):
            statement = STATEMENTS[name].format(table=table)
            with guarded.admin.transaction(force_rollback=True):
                count = guarded.admin.execute(f"SELECT count(*) FROM secmon.{table}").fetchone()[0]
            if count or name == "truncate":
                assert outcome(guarded.admin, statement) == "42501", (table, name)


def test_a_grant_does_not_open_the_log(guarded):
    """No event trigger sees what a GRANT is on; what the grantee then does meets the guards."""
    with connect(Role.OWNER, autocommit=True) as owner:
        owner.execute("GRANT ALL ON secmon.audit_entries TO secmon_service")
    with connect(Role.SERVICE, autocommit=True) as service:
        for name in ("update", "delete", "truncate", "insert"):
            statement = STATEMENTS[name].format(table="audit_entries")
            # Row-level security has no policy for them; TRUNCATE knows none and meets the trigger.
            with service.transaction(force_rollback=True):
                if name in ("update", "delete"):
                    assert service.execute(statement).rowcount == 0
                else:
                    assert outcome(service, statement) == "42501"


def test_only_the_function_appends_and_only_for_those_who_may(guarded):
    call = "SELECT secmon.audit_append_batch(" + ", ".join(["ARRAY['x']"] * 9 + ["NULL"] * 2) + ")"
    call = call.replace("ARRAY['x'], ARRAY['x']", "ARRAY['id'], ARRAY['info']", 1)
    call = call.replace("NULL, NULL", "ARRAY[NULL]::text[], ARRAY[NULL]::text[]")
    for role, expected in {
        Role.WRITER: "allowed",
        Role.SERVICE: "allowed",
        Role.READER: "42501",
    }.items():
        with connect(role, autocommit=True) as connection:
            assert outcome(connection, call) == expected


def test_a_checkpoint_once_stored_stays(guarded):
    for statement in (
        "UPDATE secmon.audit_checkpoints SET note = 'x'",
        "DELETE FROM secmon.audit_checkpoints",
        "TRUNCATE secmon.audit_checkpoints",
    ):
        assert outcome(guarded.admin, statement) == "42501"


def test_a_chain_over_many_partitions_is_one_chain(guarded):
    guarded.fill(40)
    assert len(tables(guarded)) >= 9
    result = guarded.verify()
    assert (result.verdict, result.verified_entries) == ("valid", 48)
    with guarded.admin.transaction():
        states = guarded.admin.execute(
            "SELECT DISTINCT tgname, tgenabled FROM pg_trigger t JOIN pg_inherits i"
            " ON i.inhrelid = t.tgrelid WHERE tgname LIKE 'audit_no_%' ORDER BY 1"
        ).fetchall()
    assert states == [("audit_no_change", "A"), ("audit_no_truncate", "A")]


def test_the_guarantees_tell_when_the_event_triggers_are_missing(guarded):
    key = "alter, drop or disable triggers as the table's owner"
    assert guarded.log.describe_guarantees()[key] == "prevented"
    guarded.admin.execute("DROP EVENT TRIGGER secmon_audit_ddl")
    assert guarded.log.describe_guarantees()[key] == "detected if covered by a checkpoint"


@pytest.mark.parametrize("action", ["log.rollback", "log.incarnation"])
@pytest.mark.parametrize("data", ["NULL", "'{}'", """'{"to_seq":"x"}'""", "'[7]'"])
def test_a_marker_without_sense_stops_no_look_at_the_log(guarded, action, data):
    """The service's role may write log.*, and what it wrote stays for ever."""
    nulls = ", ".join(["ARRAY[NULL]::text[]"] * 3)
    with connect(Role.SERVICE, autocommit=True) as service:
        service.execute(
            "SELECT secmon.audit_append_batch(ARRAY['x'], ARRAY['info'], ARRAY[NULL]::text[],"
            f" ARRAY['{action}'], ARRAY['a'], ARRAY['t'], {nulls}, ARRAY[{data}]::text[],"
            " ARRAY[NULL]::text[])"
        )
        assert service.execute("SELECT count(*) FROM dag_audit_logs").fetchone() == (9,)
    guarded.admin.execute("UPDATE secmon.audit_head SET incarnation = 2")
    assert guarded.verify().superseded == 0
