"""The chain as JSON, NDJSON or CSV, for people and programs that have no access to the database."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import orjson

from secmon_dagster.audit.encoding import decode_row
from secmon_dagster.audit.entry import FIELDS, AuditEntry
from secmon_dagster.audit.store import Snapshot

FORMAT_NAME = "secmon-audit-export/1"

# A spreadsheet takes a cell that begins so for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


class Format(StrEnum):
    """How an export is written."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


def entries_of(snapshot: Snapshot) -> Iterator[AuditEntry]:
    """All entries whose rows are in the database."""
    for segment in snapshot.segments:
        if not segment.archived:
            for row in snapshot.rows(segment.first_seq, segment.last_seq):
                yield decode_row(row)


def as_json(snapshot: Snapshot) -> Iterator[str]:
    """One object: the format's name and the entries."""
    yield f'{{"format":"{FORMAT_NAME}","entries":[\n'
    separator = ""
    for entry in entries_of(snapshot):
        yield separator + orjson.dumps(entry.to_dict()).decode()
        separator = ",\n"
    yield "\n]}\n"


def as_csv(snapshot: Snapshot) -> Iterator[str]:
    """A header and a line an entry, in which no cell is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    for entry in entries_of(snapshot):
        writer.writerow([safe_cell(getattr(entry, name)) for name in FIELDS])
        if buffer.tell() > 65_536:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def safe_cell(value: Any) -> Any:
    """A cell no spreadsheet runs; :func:`plain_cell` is the inverse.

    None is the empty cell, the empty text a single quote.
    """
    if isinstance(value, str) and (not value or value.startswith(_FORMULA_STARTS)):
        return "'" + value
    return value


def plain_cell(cell: str) -> str | None:
    """The value of a cell written by :func:`safe_cell`."""
    if cell == "":
        return None
    return cell[1:] if cell.startswith("'") else cell
