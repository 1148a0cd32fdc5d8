"""The chain as JSON, NDJSON or CSV, with what is needed to check it without the database.

An export is a contiguous range of entries. Its header carries the peaks of the tree before the
first entry, the signed checkpoint, and, if the checkpoint reaches beyond the last entry, the
consistency path up to it: so the entries can be shown to be exactly what was signed.
``data`` and ``details`` are exported as the text that was hashed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import orjson

from secmon_dagster.audit.backends.postgres_snapshot import PostgresSnapshot
from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.audit.encoding import decode_row
from secmon_dagster.audit.entry import FIELDS, AuditEntry
from secmon_dagster.audit.merkle import Frontier
from secmon_dagster.audit.proof import hasher_of, raw_fields
from secmon_dagster.audit.store import Snapshot
from secmon_dagster.errors import InvalidInputError

FORMAT_NAME = "secmon-audit-export/1"
HEADER_COLUMN = "export"

# A spreadsheet takes a cell that begins so for a formula; the quote is what marks a safe cell.
_UNSAFE_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


class Format(StrEnum):
    """How an export is written."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


@dataclass(frozen=True)
class Header:
    """What an export says about itself.

    Attributes:
        first_seq, last_seq: its range; empty if the last is below the first.
        peaks_before: peaks of the tree of the ``first_seq - 1`` entries before it, hex.
        checkpoint: the largest signed checkpoint, or None if there is none yet.
        consistency: path from the tree that ends at ``last_seq`` to a larger checkpoint, hex.
    """

    format: str
    first_seq: int
    last_seq: int
    peaks_before: list[str]
    checkpoint: str | None
    consistency: list[str]

    @classmethod
    def of(
        cls, snapshot: Snapshot, first_seq: int | None = None, last_seq: int | None = None
    ) -> Header:
        """The header of a range; None means from the first entry whose row is there, to the last.

        Raises:
            InvalidInputError: rows of the range are archived, or it is not in the chain.
        """
        live = [segment for segment in snapshot.segments if not segment.archived]
        first = first_seq or (live[-1].first_seq if live else snapshot.head.seq + 1)
        last = last_seq or (live[-1].last_seq if live else snapshot.head.seq)
        inside = any(s.first_seq <= first and last <= s.last_seq for s in live)
        if last >= first and not inside:
            raise InvalidInputError.of(
                "range",
                f"{first}–{last}",
                "; ".join(f"within {s.first_seq}–{s.last_seq}" for s in live) or "nothing",
                hint="Archived entries come back with `secmon audit restore`.",
            )
        known = snapshot.checkpoints()
        stored = max(known, key=lambda c: (c.created_at, c.size), default=None)
        # From the last checkpoint before the range; one of an earlier incarnation may be over
        # entries that were lost. Should its peaks be wrong, the export does not prove itself.
        begin = max(
            (c for c in known if stored and c.origin == stored.origin and c.size < first),
            key=lambda c: c.size,
            default=None,
        )
        before = (None if begin is None else begin.tree()) or Frontier()
        for start in range(before.size + 1, first, 65_536):
            before.extend(snapshot.leaves(start, min(start + 65_535, first - 1)))
        path: list[bytes] = []
        if stored is not None and stored.size > last:
            path = hasher_of(snapshot).consistency_path(last, stored.size)
        return cls(
            FORMAT_NAME,
            first,
            last,
            [peak.hex() for peak in before.peaks],
            None if stored is None else stored.note,
            [step.hex() for step in path],
        )

    @property
    def covered_to(self) -> int:
        """Entries under the checkpoint."""
        return 0 if self.checkpoint is None else Checkpoint.open(self.checkpoint, [])[0].size

    def to_json(self) -> str:
        """One line of JSON."""
        return orjson.dumps(asdict(self)).decode()


def write(snapshot: Snapshot, header: Header, output_format: str) -> Iterator[str]:
    """The export's text in pieces.

    Raises:
        InvalidInputError: no such format.
    """
    match output_format:
        case Format.JSON:
            return _as_json(snapshot, header)
        case Format.NDJSON:
            return _as_ndjson(snapshot, header)
        case Format.CSV:
            return _as_csv(snapshot, header)
    raise InvalidInputError.of("output_format", output_format, ", ".join(Format))


def _entries(snapshot: Snapshot, header: Header) -> Iterator[AuditEntry]:
    return map(decode_row, snapshot.rows(header.first_seq, header.last_seq))


def _as_ndjson(snapshot: Snapshot, header: Header) -> Iterator[str]:
    yield header.to_json() + "\n"
    for entry in _entries(snapshot, header):
        yield orjson.dumps(raw_fields(entry)).decode() + "\n"


def _as_json(snapshot: Snapshot, header: Header) -> Iterator[str]:
    yield header.to_json()[:-1] + ',"entries":[\n'
    separator = ""
    for entry in _entries(snapshot, header):
        yield separator + orjson.dumps(raw_fields(entry)).decode()
        separator = ",\n"
    yield "\n]}\n"


def _as_csv(snapshot: Snapshot, header: Header) -> Iterator[str]:
    """A line an entry, in which no cell is a formula; the header is in the first line's last
    column, so that every program reads the file as a table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIELDS, HEADER_COLUMN])
    rest = header.first_seq
    note: str | None = header.to_json()
    # The server writes CSV ten times faster than we do, but it does not know the header.
    served = isinstance(snapshot, PostgresSnapshot)
    for entry in map(decode_row, snapshot.rows(rest, rest if served else header.last_seq)):
        cells = raw_fields(entry)
        writer.writerow([*(safe_cell(cells[name]) for name in FIELDS), note])
        note = None
        if buffer.tell() > 65_536:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    if note is not None:
        writer.writerow([*[None] * len(FIELDS), note])
    yield buffer.getvalue()
    if isinstance(snapshot, PostgresSnapshot):
        for piece in snapshot.csv(rest + 1, header.last_seq):
            yield bytes(piece).decode()


def safe_cell(value: Any) -> Any:
    """A cell no spreadsheet runs; :func:`plain_cell` is the inverse.

    None is the empty cell, the empty text a single quote.
    """
    if isinstance(value, str) and (not value or value.startswith(_UNSAFE_STARTS)):
        return "'" + value
    return value


def plain_cell(cell: str) -> str | None:
    """The value of a cell written by :func:`safe_cell`."""
    if cell == "":
        return None
    return cell[1:] if cell.startswith("'") else cell
