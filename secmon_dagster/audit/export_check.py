"""Checking an export without the database it came from."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import orjson

from secmon_dagster.audit.encoding import encode_row
from secmon_dagster.audit.entry import FIELDS, AuditEntry
from secmon_dagster.audit.export import FORMAT_NAME, HEADER_COLUMN, Header, plain_cell
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.merkle import Frontier, root_of_peaks, roots_from_consistency
from secmon_dagster.audit.proof import entry_from_raw, trusted
from secmon_dagster.audit.scan import Finding, Problem, scan
from secmon_dagster.audit.verification import Verdict
from secmon_dagster.errors import CheckpointError, InvalidInputError

# What a file that was changed or cut off makes its readers raise.
_MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError,
    csv.Error, gzip.BadGzipFile, zlib.error, EOFError,
)  # fmt: skip


@dataclass(frozen=True)
class ExportCheck:
    """What an export is worth.

    Attributes:
        entries: entries in the file.
        covered: how many of them a trusted checkpoint covers.
        findings: what is wrong.
        reason: why it can't be told, if nothing is wrong.
    """

    entries: int
    covered: int
    findings: tuple[Finding, ...]
    reason: str | None

    @property
    def verdict(self) -> Verdict:
        """Tampered, not to be told, or good."""
        if self.findings:
            return Verdict.TAMPERED
        return Verdict.UNKNOWN if self.reason else Verdict.VALID


def open_export(path: Path) -> TextIO:
    """The file as text; ``.gz`` is unpacked on the way.

    Raises:
        InvalidInputError: there is no such file.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open("rt", encoding="utf-8", newline="")
    except OSError as failed:
        raise InvalidInputError(f"{path} can't be read: {failed.strerror}") from None


def read_export(file: TextIO) -> tuple[Header, Iterator[AuditEntry]]:
    """The header and the entries of an export in any of the formats.

    Raises:
        InvalidInputError: it is no export.
    """
    try:
        first = file.readline()
        if first.startswith("seq,"):
            csv.field_size_limit(2**31 - 1)  # by default a payload of 128 KiB would be refused
            table = csv.reader(file)
            row = next(table)
            header = _header(json.loads(row[len(FIELDS)]))
            if first.rstrip("\n").split(",") != [*FIELDS, HEADER_COLUMN]:
                raise InvalidInputError("the columns of the CSV file are not those of an export")
            return header, _from_csv(row, table)
        if first.rstrip().endswith('"entries":['):
            whole = orjson.loads(first + file.read())
            return _header(whole), map(entry_from_raw, whole["entries"])
        header = _header(orjson.loads(first))
        return header, (entry_from_raw(orjson.loads(line)) for line in file)
    except (*_MALFORMED, IndexError, StopIteration) as wrong:
        raise InvalidInputError(f"the file is no export: {wrong}") from None


def check_export(path: Path, ring: KeyRing) -> ExportCheck:
    """Check every hash, number and link in the file, and that it is what was signed."""
    with open_export(path) as file:
        header, entries = read_export(file)
        return _check(header, entries, ring)


def _check(header: Header, entries: Iterator[AuditEntry], ring: KeyRing) -> ExportCheck:
    try:
        found = scan(
            map(encode_row, entries),
            header.first_seq,
            sizes=[header.covered_to],
            tree=Frontier(header.first_seq - 1, map(bytes.fromhex, header.peaks_before)),
        )
    except _MALFORMED as malformed:
        finding = Finding(Problem.ENTRY_HASH, 0, "an export's header and entries", str(malformed))
        return ExportCheck(0, 0, (finding,), None)
    findings = [*found.invalid, *found.breaks]
    if found.entries != header.last_seq - header.first_seq + 1:
        expected = f"{header.last_seq - header.first_seq + 1} entries"
        findings.append(
            Finding(Problem.SEQUENCE, found.next_seq, expected, f"{found.entries} entries")
        )
    if header.checkpoint is None:
        return ExportCheck(found.entries, 0, tuple(findings), "the export has no checkpoint")
    try:
        checkpoint = trusted(header.checkpoint, ring)
    except CheckpointError as refused:
        return ExportCheck(found.entries, 0, tuple(findings), refused.message)
    root: bytes | str = "unreachable"
    if checkpoint.size < header.first_seq:
        reason = f"the checkpoint ends at {checkpoint.size}, before the first entry"
        return ExportCheck(found.entries, 0, tuple(findings), reason)
    if checkpoint.size in found.peaks_at:
        root = root_of_peaks(found.peaks_at[checkpoint.size])
    elif checkpoint.size > found.tree.size:
        try:
            path = [bytes.fromhex(step) for step in header.consistency]
            ours = found.tree.root
            old, new = roots_from_consistency(found.tree.size, checkpoint.size, ours, path)
            root = new if old == ours else "inconsistent"
        except (ValueError, TypeError) as malformed:
            root = str(malformed)
    if root != checkpoint.root:
        text = root if isinstance(root, str) else root.hex()
        findings.append(
            Finding(Problem.CHECKPOINT_ROOT, checkpoint.size, checkpoint.root.hex(), text)
        )
    covered = min(checkpoint.size, header.last_seq) - header.first_seq + 1
    return ExportCheck(found.entries, covered, tuple(findings), None)


def _header(raw: Any) -> Header:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT_NAME:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise InvalidInputError.of("format", found, FORMAT_NAME)
    return Header(**{field.name: raw[field.name] for field in fields(Header)})


def _from_csv(first: list[str], table: Iterator[list[str]]) -> Iterator[AuditEntry]:
    if first[0]:
        yield _csv_entry(first)
    yield from map(_csv_entry, table)


def _csv_entry(row: list[str]) -> AuditEntry:
    raw: dict[str, Any] = dict(zip(FIELDS, map(plain_cell, row[: len(FIELDS)]), strict=True))
    return entry_from_raw(raw | {"seq": int(raw["seq"])})
