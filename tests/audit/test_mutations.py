"""What each verifier sees of each change: expected catches, and expected misses.

Three verifiers: ``chain`` is the rows alone, as a plain hash chain has them; ``head`` adds the head
row; ``checkpoint`` adds the signed checkpoint over the first 20 of 24 entries. Each act is a
superuser's, with all triggers off. A superuser who knows the head rewrites it too: the column
``head`` is for one who forgets it.
"""

from __future__ import annotations

import dataclasses
from hashlib import sha256

import pytest

from secmon_dagster.audit import encoding
from secmon_dagster.audit.entry import FIELDS, GENESIS_HASH, INCARNATION, Draft
from secmon_dagster.audit.scan import Problem, scan

ENTRIES, COVERED = 24, 20
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)


@pytest.fixture(scope="module")
def signed(shared_chain):
    shared_chain.log.append_entries(
        [
            {
                "action": f"ACT{i}", "actor": "ann", "resource_type": "model", "resource_id": "",
                "data": {"x": i, "y": 1.5}, "details": {"why": "because"}, "job_id": f"job{i}",
            }
            for i in range(COVERED)
        ]
    )  # fmt: skip
    shared_chain.log.checkpoint()
    shared_chain.fill(ENTRIES - COVERED)
    shared_chain.unguard()
    for table in ("audit_entries", "audit_head"):
        shared_chain.admin.execute(f"CREATE TABLE kept_{table} AS TABLE secmon.{table}")
    return shared_chain


@pytest.fixture
def covered(signed):
    yield signed
    for table in ("audit_entries", "audit_head"):
        signed.admin.execute(f"DELETE FROM secmon.{table}")
        signed.admin.execute(f"INSERT INTO secmon.{table} SELECT * FROM kept_{table}")


def rows_of(chain):
    with chain.log.store.snapshot() as snapshot:
        return list(snapshot.rows(1, 10_000))


def seen_by(chain):
    """Which of the three verifiers object."""
    found = scan(rows_of(chain), 1, previous_hash=GENESIS_HASH)
    by_rows = bool(found.invalid_count or found.break_count)
    result = chain.verify()
    by_head = any(finding.problem is Problem.HEAD for finding in result.chain_breaks)
    return {
        name
        for name, objects in {
            "chain": by_rows,
            "head": by_head,
            "checkpoint": bool(result.checkpoint_problems),
        }.items()
        if objects
    }


def edit(chain, seq, /, **values):
    assignments = ", ".join(f'"{name}" = %s' for name in values)
    chain.admin.execute(
        f"UPDATE secmon.audit_entries SET {assignments} WHERE seq = %s", [*values.values(), seq]
    )


def rehash_from(chain, seq, *, and_head=False):
    """Recompute every hash from ``seq`` on, as one who has the source code would."""
    chain.admin.execute(
        f"""
        DO $$
        DECLARE e secmon.audit_entries; last bytea;
        BEGIN
          SELECT entry_hash INTO last FROM secmon.audit_entries WHERE seq < {seq}
           ORDER BY seq DESC LIMIT 1;
          last := COALESCE(last, decode(repeat('00', 32), 'hex'));
          FOR e IN SELECT * FROM secmon.audit_entries WHERE seq >= {seq} ORDER BY seq LOOP
            e.previous_hash := last;
            last := secmon.audit_expected_hash(e);
            UPDATE secmon.audit_entries SET previous_hash = e.previous_hash, entry_hash = last
             WHERE seq = e.seq;
          END LOOP;
        END $$
        """
    )
    if and_head:
        chain.admin.execute(
            "UPDATE secmon.audit_head h SET seq = e.seq, entry_hash = e.entry_hash"
            " FROM (SELECT seq, entry_hash FROM secmon.audit_entries ORDER BY seq DESC LIMIT 1) e"
        )


def delete(chain, condition):
    chain.admin.execute(f"DELETE FROM secmon.audit_entries WHERE {condition}")


def renumber_after(chain, seq):
    for number in range(seq + 1, ENTRIES + 1):
        chain.admin.execute(
            "UPDATE secmon.audit_entries SET seq = %s WHERE seq = %s", (number - 1, number)
        )


def swap(chain, one, other):
    chain.admin.execute("UPDATE secmon.audit_entries SET seq = 900 WHERE seq = %s", (one,))
    chain.admin.execute("UPDATE secmon.audit_entries SET seq = %s WHERE seq = %s", (one, other))
    chain.admin.execute("UPDATE secmon.audit_entries SET seq = %s WHERE seq = 900", (other,))


def insert_copy(chain, source, seq):
    chain.admin.execute(
        f"INSERT INTO secmon.audit_entries ({COLUMNS}) SELECT %s, "
        + ", ".join(f'"{name}"' for name in FIELDS if name != "seq")
        + " FROM secmon.audit_entries WHERE seq = %s",
        (seq, source),
    )


def insert_between(chain, seq):
    for number in range(ENTRIES, seq - 1, -1):
        chain.admin.execute(
            "UPDATE secmon.audit_entries SET seq = %s WHERE seq = %s", (number + 1, number)
        )
    insert_copy(chain, seq - 1, seq)


def replace_log(chain, count):
    """Another, valid log: made by the log's own function from an empty one."""
    chain.admin.execute("DELETE FROM secmon.audit_entries")
    chain.admin.execute(
        "UPDATE secmon.audit_head SET seq = 0, entry_hash = decode(repeat('00', 32), 'hex')"
    )
    chain.fill(count, actor="mallory")


def forget_after(chain, seq):
    """What a restored backup looks like: entries and head as they were."""
    delete(chain, f"seq > {seq}")
    chain.admin.execute(
        "UPDATE secmon.audit_head h SET seq = e.seq, entry_hash = e.entry_hash"
        " FROM secmon.audit_entries e WHERE e.seq = %s",
        (seq,),
    )


def announce_restore(chain):
    """What `secmon audit checkpoint --new-incarnation` writes, by one who has no signing key."""
    chain.admin.execute("UPDATE secmon.audit_head SET incarnation = 2")
    announcement = Draft.of(
        INCARNATION, "mallory", "audit_chain", data={"incarnation": 2, "restored_to": 0}
    )
    chain.log.store.append([announcement])


CASES = {
    # --- nothing is recomputed: the chain alone sees it -----------------------------------------
    "edit a field": (lambda c: edit(c, 5, actor="bob"), {"chain"}),
    "edit the last entry": (lambda c: edit(c, 24, actor="bob"), {"chain"}),
    "NULL becomes empty": (lambda c: edit(c, 5, execution_id=""), {"chain"}),
    "empty becomes NULL": (lambda c: edit(c, 5, resource_id=None), {"chain"}),
    "move bytes between fields": (
        lambda c: edit(c, 5, actor="an", resource_type="nmodel"), {"chain"}),
    "JSON rewritten to equal meaning": (
        lambda c: edit(c, 5, data='{"x": 4, "y": 1.50}'), {"chain"}),
    "JSON with a doubled key": (lambda c: edit(c, 5, data='{"x":4,"x":4,"y":1.5}'), {"chain"}),
    "back-date one entry": (lambda c: edit(c, 5, timestamp="2020-01-01"), {"chain"}),
    "change the database user": (lambda c: edit(c, 5, db_user="postgre"), {"chain"}),
    "delete the first": (lambda c: delete(c, "seq = 1"), {"chain", "checkpoint"}),
    "delete one in the middle": (lambda c: delete(c, "seq = 10"), {"chain", "checkpoint"}),
    "delete and renumber": (
        lambda c: (delete(c, "seq = 10"), renumber_after(c, 10)), {"chain", "head", "checkpoint"}),
    "swap two": (lambda c: swap(c, 5, 6), {"chain", "checkpoint"}),
    "insert one": (lambda c: insert_between(c, 10), {"chain", "head", "checkpoint"}),
    "duplicate the last": (lambda c: insert_copy(c, 24, 25), {"chain", "head"}),
    # --- the chain alone does not see it: the head row does, if it is forgotten -----------------
    "cut the tail, newer than the checkpoint": (lambda c: delete(c, "seq > 22"), {"head"}),
    "cut the tail past the checkpoint": (lambda c: delete(c, "seq > 15"), {"head", "checkpoint"}),
    "delete the last": (lambda c: delete(c, "seq = 24"), {"head"}),
    "delete all": (lambda c: delete(c, "TRUE"), {"head", "checkpoint"}),
    "edit and rehash all that follows": (
        lambda c: (edit(c, 5, actor="bob"), rehash_from(c, 5)), {"head", "checkpoint"}),
    "delete, renumber and rehash": (
        lambda c: (delete(c, "seq = 10"), renumber_after(c, 10), rehash_from(c, 10)),
        {"head", "checkpoint"}),
    # --- a superuser who knows the head: only what is held outside sees it -----------------------
    "edit, rehash, and rewrite the head": (
        lambda c: (edit(c, 5, actor="bob"), rehash_from(c, 5, and_head=True)), {"checkpoint"}),
    "delete, renumber, rehash, and rewrite the head": (
        lambda c: (delete(c, "seq = 10"), renumber_after(c, 10), rehash_from(c, 10, and_head=True)),
        {"checkpoint"}),
    "replace the log by a longer valid one": (lambda c: replace_log(c, 30), {"checkpoint"}),
    "replace the log by a shorter valid one": (lambda c: replace_log(c, 10), {"checkpoint"}),
    "restore an old backup": (lambda c: forget_after(c, 15), {"checkpoint"}),
    "restore an old backup and append": (
        lambda c: (forget_after(c, 15), c.fill(20)), {"checkpoint"}),
    "truncate, then continue": (lambda c: (forget_after(c, 19), c.fill(5)), {"checkpoint"}),
    "replace the log, and announce a restore from nothing": (
        lambda c: (replace_log(c, 30), announce_restore(c)), {"checkpoint"}),
    # --- expected misses: nobody may claim these ------------------------------------------------
    "MISSED: edit newer than the checkpoint, rehash, rewrite the head": (
        lambda c: (edit(c, 22, actor="bob"), rehash_from(c, 22, and_head=True)), set()),
    "MISSED: cut the tail newer than the checkpoint and rewrite the head": (
        lambda c: forget_after(c, 22), set()),
    "MISSED: restore a backup newer than the checkpoint and append": (
        lambda c: (forget_after(c, 21), c.fill(5)), set()),
    "MISSED: a lie told at append": (lambda c: c.fill(1, actor="somebody else"), set()),
}  # fmt: skip


@pytest.mark.parametrize("act", CASES)
def test_each_verifier_sees_exactly_what_is_expected(covered, act):
    assert seen_by(covered) == set()
    mutate, expected = CASES[act]
    mutate(covered)
    assert seen_by(covered) == expected
    verdict = covered.verify().verdict
    assert (verdict == "valid") == (not expected)


def test_every_flipped_bit_of_every_column_is_named(covered):
    """All bits of all fields of one entry, in the bytes that the server sends."""
    rows = rows_of(covered)
    target = rows[4]
    missed = []
    # Not the field count and the length of the hash: those are no column's, only the protocol's.
    for position in [*range(2, len(target) - 36), *range(len(target) - 32, len(target))]:
        for bit in range(8):
            flipped = bytearray(target)
            flipped[position] ^= 1 << bit
            found = scan([*rows[:4], bytes(flipped), *rows[5:]], 1, previous_hash=GENESIS_HASH)
            if not (found.invalid_count or found.break_count):
                missed.append((position, bit))
    assert missed == []
    assert len(target) > 250


@pytest.mark.parametrize("column", FIELDS)
def test_a_flipped_bit_in_the_table_is_found_in_every_column(covered, column):
    """The same, one bit a column, through the database and back."""
    entry = encoding.decode_row(rows_of(covered)[4])
    value = getattr(entry, column)
    match column:
        case "seq":
            other = 900
        case "previous_hash" | "entry_hash":
            other = bytes([bytes.fromhex(value)[0] ^ 1]) + bytes.fromhex(value)[1:]
        case "timestamp":
            other = value.replace(microsecond=value.microsecond ^ 1)
        case "level":
            other = "warn"
        case "data" | "details":
            other = value.replace(":", ": ", 1)
        case _:
            other = chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    edit(covered, 5, **{column: other})
    result = covered.verify()
    assert result.verdict == "tampered"
    if column not in ("seq", "previous_hash"):
        named = [finding.seq for finding in result.invalid_entries]
        assert named == [5]
        assert result.invalid_entries[0].expected != result.invalid_entries[0].found


def test_findings_say_where_and_what(covered):
    edit(covered, 7, actor="bob")
    delete(covered, "seq IN (10, 11)")
    result = covered.verify()
    (invalid,) = result.invalid_entries
    assert (invalid.seq, invalid.problem) == (7, "entry_hash")
    assert invalid.entry_id == covered.admin.execute(
        "SELECT entry_id FROM secmon.audit_entries WHERE seq = 7"
    ).fetchone()[0]  # fmt: skip
    gap, link = result.chain_breaks
    assert (gap.problem, gap.seq, gap.expected, gap.found) == ("sequence", 12, "10", "12")
    assert (link.problem, link.seq) == ("previous_hash", 12)
    assert result.verified_entries == ENTRIES - 3


def test_the_hash_of_the_row_is_what_its_bytes_say():
    # The scanner's two slices against the definition, once by hand.
    fixed, content, rest = b"s" * 60, b"c" * 40, b"\x00\x00\x00\x20"
    good = sha256(b"\x01" + fixed + sha256(encoding.TAG + content).digest()).digest()
    row = encoding.FIELD_COUNT + fixed + content + rest + good
    assert scan([row], 1).invalid_count == 0
    assert dataclasses.asdict(scan([row[:-1] + b"x"], 1))["invalid_count"] == 1
