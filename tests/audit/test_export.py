from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.audit.entry import FIELDS
from secmon_dagster.audit.export import Format, plain_cell, safe_cell
from secmon_dagster.audit.export_check import check_export
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.errors import InvalidInputError

FORMULA = '=HYPERLINK("http://evil","x")'


@pytest.fixture(scope="module")
def signed(shared_chain):
    """A chain of 30, checkpoints at 12 and 25."""
    shared_chain.fill(
        5, actor=FORMULA, resource_id="", data={"=x": "+1"}, details="zwei\nZeilen, «é»"
    )
    shared_chain.fill(7)
    shared_chain.log.checkpoint()
    shared_chain.fill(13)
    shared_chain.log.checkpoint()
    shared_chain.fill(5, resource_id="@home")
    return shared_chain


@pytest.fixture
def exported(signed, tmp_path):
    """A way to write a file of it."""

    def write(output_format, **range_):
        path = tmp_path / f"export.{output_format}"
        with path.open("w") as file:
            signed.log.export_to(file.write, output_format, **range_)
        return path

    return write


def ring(chain):
    return KeyRing.load(chain.home / "keys" / "audit.pub")


@pytest.mark.parametrize("output_format", Format)
def test_an_export_proves_itself_without_the_database(signed, exported, output_format):
    check = check_export(exported(output_format), ring(signed))
    assert (check.verdict, check.entries, check.covered) == ("valid", 30, 25)


@pytest.mark.parametrize("output_format", Format)
@pytest.mark.parametrize(
    ("first", "last", "covered"), [(4, 9, 6), (20, 30, 6), (25, 25, 1), (1, 25, 25)]
)
def test_a_range_proves_itself_too(signed, exported, output_format, first, last, covered):
    path = exported(output_format, first_seq=first, last_seq=last)
    check = check_export(path, ring(signed))
    assert (check.verdict, check.entries, check.covered) == ("valid", last - first + 1, covered)


@pytest.mark.parametrize("output_format", Format)
def test_any_change_to_an_export_is_found(signed, exported, output_format):
    path = exported(output_format)
    text = path.read_text()
    changes = {
        "an actor": text.replace("HYPERLINK", "HYPERLINC", 1),
        "a number": text.replace('"seq":7' if output_format != "csv" else "\n7,", "\n77,"
                                 if output_format == "csv" else '"seq":77', 1),
        "an entry less": "\n".join(
            line for line in text.split("\n")
            if not line.startswith(("7,", '{"seq":7,'))),
        "the root": text.replace("secmon-dagster/audit\\n25", "secmon-dagster/audit\\n26", 1),
    }  # fmt: skip
    for what, changed in changes.items():
        assert changed != text, what
        path.write_text(changed)
        assert check_export(path, ring(signed)).verdict != "valid", what


def test_an_export_without_known_key_or_checkpoint_can_not_be_told(signed, exported, tmp_path):
    path = exported("ndjson")
    check = check_export(path, KeyRing())
    assert (check.verdict, check.reason) == ("unknown", "the checkpoint is signed by no known key")
    assert check_export(exported("json", first_seq=27), ring(signed)).verdict == "unknown"


def test_an_empty_chain_exports_and_says_that_it_has_no_checkpoint(chain, tmp_path):
    for output_format in Format:
        path = tmp_path / "empty"
        path.write_text(chain.log.export_chain(output_format))
        check = check_export(path, KeyRing())
        assert (check.entries, check.verdict) == (0, "unknown")


@pytest.mark.parametrize(
    "content", ["", "hello\n", "{}\n", "[1]\n", "seq,x\n1,2\n", '{"entries":[\n]}']
)
def test_what_is_no_export_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InvalidInputError):
        check_export(path, KeyRing())
    with pytest.raises(InvalidInputError, match="can't be read"):
        check_export(tmp_path / "missing", KeyRing())


def test_an_unknown_format_is_refused(chain):
    with pytest.raises(
        InvalidInputError, match="output_format is 'xml'; allowed: json, ndjson, csv"
    ):
        chain.log.export_chain("xml")


def test_csv_is_a_table_without_formulas_and_json_has_the_entries(signed, exported):
    table = list(csv.reader(io.StringIO(signed.log.export_chain("csv"))))
    assert table[0] == [*FIELDS, "export"]
    assert {len(row) for row in table} == {len(FIELDS) + 1}
    assert len(table) == 31
    assert table[1][FIELDS.index("actor")] == "'" + FORMULA
    for row in table[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row)
    content = json.loads(signed.log.export_chain("json"))
    assert [entry["seq"] for entry in content["entries"]] == list(range(1, 31))


@given(st.none() | st.text())
def test_a_safe_cell_can_be_undone(value):
    cell = safe_cell(value)
    assert plain_cell(cell or "") == value
    assert cell is None or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


BROKEN = {
    "a previous hash with more bytes": (2, lambda e: {"previous_hash": e["previous_hash"] + "00"}),
    "a previous hash with fewer bytes": (1, lambda row: {"previous_hash": ""}),
    "a number that is text": (2, lambda row: {"seq": str(row["seq"])}),
    "a number too large": (2, lambda row: {"seq": 2**70}),
    "a time without its zone": (2, lambda row: {"timestamp": row["timestamp"][:19]}),
    "a number for a text": (2, lambda row: {"actor": 7}),
    "a first number that is text": (0, lambda row: {"first_seq": "1"}),
    "a first number too small": (0, lambda row: {"first_seq": 0}),
    "peaks that are none": (0, lambda row: {"peaks_before": ["zz"]}),
    "a path that is none": (0, lambda row: {"consistency": 5, "last_seq": 20}),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_field_of_another_type_or_length_is_found_and_ends_nothing(signed, exported, what):
    place, change = BROKEN[what]
    path = exported("ndjson", last_seq=20)
    rows = lines_of(path)
    rows[place] |= change(rows[place])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check_export(path, ring(signed)).verdict == "tampered"


@pytest.mark.parametrize("place", [12, 40, -20, -6])
def test_a_packed_export_that_was_cut_off_or_damaged_is_not_valid(
    exported, signed, tmp_path, place
):
    packed = gzip.compress(exported("ndjson").read_bytes())
    for name, content in {
        "cut": packed[:place],
        "damaged": packed[:place] + bytes([packed[place] ^ 255]) + packed[place:][1:],
    }.items():
        (tmp_path / f"{name}.gz").write_bytes(content)
        try:
            assert check_export(tmp_path / f"{name}.gz", ring(signed)).verdict == "tampered"
        except InvalidInputError as no_export:
            assert place > 0 or name == "damaged", no_export


def test_a_large_payload_passes_in_every_format(chain, tmp_path):
    chain.fill(2, data="x" * 200_000)
    chain.log.checkpoint()
    for output_format in Format:
        (tmp_path / "large").write_text(chain.log.export_chain(output_format))
        assert check_export(tmp_path / "large", ring(chain)).verdict == "valid"
