"""Moving old partitions to files, and back.

Whole partitions only. The file is an export, so it proves itself by the checkpoint it carries; an
entry in the log commits to its hash; and the entry hashes stay in the database, so that roots, old
checkpoints and old proofs hold for ever.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from secmon_dagster.audit import export
from secmon_dagster.audit.backends.postgres import PostgresStore
from secmon_dagster.audit.encoding import COPY_SIGNATURE, COPY_TRAILER, encode_row
from secmon_dagster.audit.entry import Draft
from secmon_dagster.audit.export_check import check_export, open_export, read_export
from secmon_dagster.audit.files import alone, replacing
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.verification import Verdict
from secmon_dagster.database import Role
from secmon_dagster.errors import AuditError, ChainTamperedError, NotFoundError

LEAVES_A_ROW = 4096
# Far below what an append waits for the head.
LOCK_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class Archived:
    """A partition that is, or was, in a file."""

    first_seq: int
    last_seq: int
    file: str
    file_sha256: str


class Archive:
    """Archives of one chain.

    Args:
        store: the chain.
        folder: where files go and are looked for.
        ring: the keys by which a file must prove itself.
        actor: who is named in the log.
    """

    def __init__(self, store: PostgresStore, folder: Path, ring: KeyRing, actor: str) -> None:
        self._store = store
        self._folder = folder
        self._ring = ring
        self._actor = actor

    def archive(self, older_than: timedelta = timedelta(days=90)) -> list[Archived]:
        """Move every full partition, oldest first, whose last entry is older than that.

        Raises:
            AuditError: a file does not prove itself, e.g. because there is no checkpoint over it;
                or somebody is reading the log. What was moved before stays moved.
        """
        moved = []
        cutoff = datetime.now(UTC) - older_than
        with self._alone():
            while (bounds := self._oldest(cutoff)) is not None:
                moved.append(self._archive(*bounds))
        return moved

    def restore(self, first_seq: int) -> Archived:
        """Bring the rows of an archived partition back.

        Raises:
            NotFoundError: nothing archived begins there.
            ChainTamperedError: the file is not what was archived.
        """
        with self._alone(), self._store.connect(Role.ADMIN) as connection:
            row = connection.execute(
                "SELECT first_seq, last_seq, file, file_sha256 FROM secmon.audit_archives"
                " WHERE first_seq = %s ORDER BY id DESC LIMIT 1",
                (first_seq,),
            ).fetchone()
            if row is None:
                raise NotFoundError(f"no archive begins at entry {first_seq}")
            archived = Archived(*row)
            path = self._folder / archived.file
            if not path.exists():
                raise NotFoundError(f"the archive file {path} is missing")
            found = _sha256(path)
            if found != archived.file_sha256:
                raise ChainTamperedError(
                    f"{path} has the hash {found}; archived was {archived.file_sha256}"
                )
            self._prove(path)
            self._load(connection, archived, path)
        self._note("log.restore", archived)
        return archived

    def _oldest(self, cutoff: datetime) -> tuple[int, int] | None:
        with self._store.connect(Role.ADMIN) as connection:
            row = connection.execute(
                "SELECT seq, partition_entries FROM secmon.audit_head"
            ).fetchone()
            partitions = connection.execute(
                "SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid),"
                " 'FROM \\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)'))::bigint[]"
                " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'secmon.audit_entries'::regclass ORDER BY 1 LIMIT 1"
            ).fetchone()
            assert row is not None
            if partitions is None:
                return None
            first, end = partitions[0]
            last = connection.execute(
                'SELECT "timestamp" FROM secmon.audit_entries WHERE seq = %s', (end - 1,)
            ).fetchone()
        if last is None or last[0] > cutoff or end - 1 >= row[0]:
            return None  # not full, too young, or the one that holds the end of the chain
        return first, end - 1

    def _archive(self, first: int, last: int) -> Archived:
        name = f"audit-{first:012d}-{last:012d}.ndjson.gz"
        path = self._folder / name
        with self._store.snapshot() as snapshot:
            header = export.Header.of(snapshot, first, last)
            if header.covered_to < last:
                raise AuditError(
                    f"entries {first}–{last} are not under a checkpoint yet",
                    hint="Make one with `secmon audit checkpoint`.",
                )
            self._write(path, export.write(snapshot, header, export.Format.NDJSON))
            leaves = snapshot.leaves(first, last)
            announcements = snapshot.announcement_rows(first, last)
        self._prove(path)
        archived = Archived(first, last, name, _sha256(path))
        manifest = self._note("log.archive", archived)
        try:
            with self._store.connect(Role.ADMIN) as connection:
                self._forget_rows(connection, archived, leaves, manifest, announcements)
        except psycopg.errors.LockNotAvailable:
            raise AuditError(
                f"entries {first}–{last} are being read, by a backup or a verification; they stay",
                hint="Archive again when that is over.",
            ) from None
        return archived

    def _write(self, path: Path, pieces: Any) -> None:
        """Whole or not at all, and on disk before the rows go."""
        with replacing(path) as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
            for piece in pieces:
                packed.write(piece.encode())

    def _alone(self) -> AbstractContextManager[None]:
        """Another archiver would put a file of its own, with another hash, under the same name."""
        return alone(self._folder / ".lock")

    def _prove(self, path: Path) -> None:
        check = check_export(path, self._ring)
        if check.verdict is not Verdict.VALID or check.covered != check.entries:
            what = check.findings[0].to_dict() if check.findings else check.reason
            raise ChainTamperedError(f"{path} does not prove itself: {what}")

    def _note(self, action: str, archived: Archived) -> str:
        """The entry in the log that commits to the file."""
        draft = Draft.of(
            action,
            self._actor,
            "audit_chain",
            data={
                "first_seq": archived.first_seq,
                "last_seq": archived.last_seq,
                "file": archived.file,
                "file_sha256": archived.file_sha256,
            },
            event_type="config.change",
        )
        return self._store.append([draft])[0].entry_id

    def _forget_rows(
        self,
        connection: psycopg.Connection[Any],
        archived: Archived,
        leaves: Sequence[bytes],
        manifest: str,
        announcements: list[bytes],
    ) -> None:
        """In one transaction: keep the hashes, note the archive, let the partition go."""
        # To detach waits for every reader, and every append then waits behind that.
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        for at in range(0, len(leaves), LEAVES_A_ROW):
            part = leaves[at : at + LEAVES_A_ROW]
            first = archived.first_seq + at
            connection.execute(
                "INSERT INTO secmon.audit_leaves VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (first, first + len(part) - 1, b"".join(part)),
            )
        connection.execute(
            "INSERT INTO secmon.audit_archives (first_seq, last_seq, manifest_id, file,"
            " file_sha256, announcements) VALUES (%s, %s, %s, %s, %s, %s)",
            (
                archived.first_seq,
                archived.last_seq,
                manifest,
                archived.file,
                archived.file_sha256,
                announcements,
            ),
        )
        table = sql.Identifier("secmon", f"audit_entries_from_{archived.first_seq}")
        connection.execute(
            sql.SQL("ALTER TABLE secmon.audit_entries DETACH PARTITION {}").format(table)
        )
        connection.execute(sql.SQL("DROP TABLE {}").format(table))

    def _load(self, connection: psycopg.Connection[Any], archived: Archived, path: Path) -> None:
        """The reverse, again in one transaction."""
        table = sql.Identifier("secmon", f"audit_entries_from_{archived.first_seq}")
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (LIKE secmon.audit_entries INCLUDING DEFAULTS"
                " INCLUDING CONSTRAINTS)"
            ).format(table)
        )
        connection.execute(sql.SQL("ALTER TABLE {} OWNER TO secmon_owner").format(table))
        statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
        with open_export(path) as file, connection.cursor().copy(statement) as copy:
            copy.write(COPY_SIGNATURE + bytes(8))
            for entry in read_export(file)[1]:
                copy.write(encode_row(entry))
            copy.write(COPY_TRAILER)
        connection.execute(
            sql.SQL(
                "ALTER TABLE secmon.audit_entries ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"
            ).format(table, archived.first_seq, archived.last_seq + 1)
        )
        connection.execute(
            sql.SQL(
                "CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON {} FOR EACH STATEMENT"
                " EXECUTE FUNCTION secmon.audit_refuse_change()"
            ).format(table)
        )
        for trigger in ("audit_no_truncate", "audit_no_change"):
            connection.execute(
                sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(
                    table, sql.Identifier(trigger)
                )
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
