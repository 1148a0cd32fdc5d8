from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.audit import encoding
from secmon_dagster.audit.entry import FIELDS, AuditEntry

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
optional = st.none() | texts
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
moments = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1), timezones=st.just(UTC)
)
entries = st.builds(
    AuditEntry,
    st.integers(1, 2**63 - 1), hashes, moments, texts, texts, texts, optional, texts, texts, texts,
    optional, optional, optional, optional, optional, optional, hashes,
)  # fmt: skip

GOLDEN = AuditEntry(
    7, "11" * 32, datetime(2026, 1, 30, 12, 0, 0, 123456, tzinfo=UTC), "secmon_service",
    "01a1fbe8-0926-7889-be90-2b389b9b1b10", "info", None, "UPDATE", "dätä_scientist", "model",
    "", None, "step", '{"threshold":0.85}', "aa" * 32, None, "22" * 32,
)  # fmt: skip


@given(entries, entries)
def test_two_entries_have_the_same_bytes_only_if_they_are_equal(one, other):
    assert (encoding.encode_row(one) == encoding.encode_row(other)) == (one == other)


@given(entries)
def test_decoding_gives_back_the_entry(entry):
    assert encoding.decode_row(encoding.encode_row(entry)) == entry


@given(st.lists(optional, min_size=2, max_size=6), st.integers(0, 4))
def test_moving_a_character_between_fields_changes_the_bytes(fields, place):
    place %= len(fields) - 1
    left, right = fields[place], fields[place + 1]
    if not left:
        return
    moved = [*fields]
    moved[place], moved[place + 1] = left[:-1], left[-1] + (right or "")
    assert encoding.encode_fields(moved) != encoding.encode_fields(fields)


def test_null_and_empty_differ():
    assert encoding.content_hash([None]) != encoding.content_hash([""])


@given(moments)
def test_microseconds_are_exact(moment):
    assert encoding.moment_of(encoding.microseconds(moment)) == moment


def test_the_golden_entry_has_the_golden_hash():
    # Fixed for ever: a change here breaks every chain that exists.
    assert encoding.expected_hash(GOLDEN) == bytes.fromhex(
        "36a759136b77c9633375c1d8b49dc31bd60b83b819ee8df9b2835e4f73d3f82a"
    )


@given(entries, st.sampled_from(FIELDS[:-1]))
def test_the_hash_depends_on_every_field(entry, field):
    value = getattr(entry, field)
    match field:
        case "seq":
            other = value - 1
        case "previous_hash":
            other = bytes([bytes.fromhex(value)[0] ^ 1]).hex() + value[2:]
        case "timestamp":
            other = value + timedelta(microseconds=1)
        case _:
            other = "" if value is None else value + "x"
    changed = entry._replace(**{field: other})
    assert encoding.expected_hash(changed) != encoding.expected_hash(entry)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda row: b"\x00\x10" + row[2:], "a tuple begins with 0010"),
        (lambda row: row[:-1], "exceeds a tuple"),
        (lambda row: row + b"x", "1 bytes follow"),
        (lambda row: row[:2] + b"\xff\xff\xff\xff" + row[14:], "NULL"),
    ],
)
def test_a_damaged_tuple_is_refused(damage, complaint):
    with pytest.raises(ValueError, match=complaint):
        encoding.decode_row(damage(encoding.encode_row(GOLDEN)))


def test_python_sql_and_copy_encode_alike(database):
    from secmon_dagster.audit import HashChainAuditLogger

    with HashChainAuditLogger() as log:
        log.append_entries(
            [
                {"action": "A", "actor": "ä€𝄞\n\"'", "resource_type": "t", "resource_id": ""},
                {"action": "B", "actor": "b", "resource_type": "t", "data": {"x": [1.5, None]}},
                {
                    "action": "C",
                    "actor": "c",
                    "resource_type": "t",
                    "details": "\\ü",
                    "job_id": "j",
                },
            ]
        )
        with log.store.snapshot() as snapshot:
            rows = list(snapshot.rows(1, 3))
    with database.admin() as admin:
        in_sql = admin.execute(
            "SELECT secmon.audit_expected_hash(e) FROM secmon.audit_entries e ORDER BY seq"
        ).fetchall()
    for row, (sql_hash,) in zip(rows, in_sql, strict=True):
        entry = encoding.decode_row(row)
        assert encoding.encode_row(entry) == row
        assert encoding.expected_hash(entry) == sql_hash == bytes.fromhex(entry.entry_hash)
