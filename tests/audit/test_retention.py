from __future__ import annotations

import json
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from secmon_dagster.audit import Query
from secmon_dagster.audit.export_check import check_export
from secmon_dagster.audit.keys import KeyRing
from secmon_dagster.audit.proof import check_proof
from secmon_dagster.audit.retention import Archive
from secmon_dagster.errors import AuditError, ChainTamperedError, InvalidInputError, NotFoundError

NOW = timedelta(0)


@pytest.fixture
def old(chain):
    """Partitions of 10, 25 entries, all under a checkpoint."""
    chain.admin.execute("DROP TABLE secmon.audit_entries_from_1")
    chain.admin.execute("UPDATE secmon.audit_head SET partition_entries = 10, partitioned_to = 0")
    chain.fill(7)
    chain.log.checkpoint()
    chain.fill(18)
    chain.log.checkpoint()
    return chain


def test_full_old_partitions_move_to_files_and_the_chain_still_verifies(old):
    before = old.log.find(Query())
    proof = old.log.prove(before[4].entry_id)
    moved = old.log.archive(NOW)
    assert [(part.first_seq, part.last_seq) for part in moved] == [(1, 10), (11, 20)]
    result = old.verify()
    # Two manifests came in between.
    assert (result.verdict, result.archived, result.verified_entries) == ("valid", 20, 7)
    assert (result.total_entries, result.checkpoints_checked, result.checkpoint_size) == (27, 2, 25)
    ring = KeyRing.load(old.home / "keys" / "audit.pub")
    for part in moved:
        check = check_export(old.home / "archive" / part.file, ring)
        assert (check.verdict, check.covered) == ("valid", 10)
    assert check_proof(proof, ring)
    assert old.log.prove(before[22].entry_id)
    manifest = old.log.find(Query(action="log.archive"))[0]
    assert json.loads(manifest.data)["file_sha256"] == moved[0].file_sha256
    old.fill(3)
    assert old.log.checkpoint().size == 30
    assert old.verify(since_checkpoint=True).verdict == "valid"


def test_an_archiver_gives_way_to_who_reads_and_holds_up_no_append(old):
    outcome = []

    def archive():
        try:
            outcome.append(old.log.archive(NOW))
        except AuditError as gave_up:
            outcome.append(str(gave_up))

    with old.log.store.snapshot() as reading:
        assert len(list(reading.rows(1, 3))) == 3
        archiving = threading.Thread(target=archive, daemon=True)
        archiving.start()
        archiving.join(60)
        (said,) = outcome
        assert "entries 1–10 are being read" in said
    assert old.verify().archived == 0
    assert [part.first_seq for part in old.log.archive(NOW)] == [1, 11]
    assert old.verify().verdict == "valid"


def test_two_archivers_at_once_leave_files_that_come_back(old, monkeypatch):
    note, others = Archive._note, []

    def while_another_begins(self, action, archived):
        if not others:
            others.append(threading.Thread(target=old.log.archive, args=(NOW,), daemon=True))
            others[0].start()
            others[0].join(3)  # it would be through by now, and its file in our file's place
        return note(self, action, archived)

    old.fill(1)
    monkeypatch.setattr(Archive, "_note", while_another_begins)
    moved = old.log.archive(NOW)
    others[0].join(60)
    monkeypatch.undo()
    assert [part.first_seq for part in moved] == [1, 11]
    for part in moved:
        old.log.restore(part.first_seq)
    assert old.verify().verdict == "valid"


def test_the_name_of_an_archive_file_is_on_disk_before_its_rows_go(old, monkeypatch):
    flushed, forget = [], Archive._forget_rows

    def fsync(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def rows_go(*arguments):
        flushed.append("rows")
        forget(*arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Archive, "_forget_rows", rows_go)
    old.log.archive(NOW)
    assert flushed[:3] == ["audit-000000000001-000000000010.ndjson.gz.part", "archive", "rows"]


def test_entries_that_are_young_or_in_the_last_partition_stay(old):
    assert old.log.archive() == []
    assert old.verify().archived == 0


def test_entries_without_a_checkpoint_stay(old):
    old.fill(20)
    old.admin.execute("ALTER TABLE secmon.audit_checkpoints DISABLE TRIGGER ALL")
    old.admin.execute("DELETE FROM secmon.audit_checkpoints WHERE size > 7")
    with pytest.raises(AuditError, match="1–10 are not under a checkpoint yet"):
        old.log.archive(NOW)
    assert old.verify().archived == 0


def test_a_restored_partition_is_as_it_was(old):
    before = old.log.find(Query())
    first, second = old.log.archive(NOW)
    old.log.restore(second.first_seq)
    assert old.verify().archived == 10
    old.log.restore(first.first_seq)
    after = old.log.find(Query())
    assert after[:25] == before
    assert [entry.action for entry in after[25:]] == ["log.archive"] * 2 + ["log.restore"] * 2
    assert (old.verify().verdict, old.verify().archived) == ("valid", 0)
    with pytest.raises(Exception, match="append-only"):
        old.admin.execute("TRUNCATE secmon.audit_entries_from_1")
    assert len(old.log.archive(NOW)) == 2


def test_a_restored_partition_can_be_archived_and_restored_again(old):
    """The second file carries a later checkpoint: another file with another hash."""
    before = old.log.find(Query())
    first = old.log.archive(NOW)[0]
    old.log.restore(1)
    old.log.checkpoint()
    assert old.log.archive(NOW)[0].file_sha256 != first.file_sha256
    assert old.verify().archived == 20
    old.log.restore(1)
    old.log.restore(11)
    assert old.verify().verdict == "valid"
    assert old.log.find(Query())[: len(before)] == before


def test_an_archive_file_that_was_changed_or_lost_is_refused(old):
    first, second = old.log.archive(NOW)
    path = old.home / "archive" / first.file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ChainTamperedError, match="has the hash .*; archived was"):
        old.log.restore(1)
    (old.home / "archive" / second.file).unlink()
    with pytest.raises(NotFoundError, match="is missing"):
        old.log.restore(11)
    with pytest.raises(NotFoundError, match="no archive begins at entry 3"):
        old.log.restore(3)


def test_what_a_rollback_hid_stays_hidden_when_it_comes_back_without_its_marker(old):
    kept = old.log.find(Query())[1]
    assert old.log.rollback_to_hash(kept.entry_hash) == (True, 23)
    old.fill(5)
    old.log.checkpoint()
    assert [part.last_seq for part in old.log.archive(NOW)] == [10, 20, 30]
    old.log.restore(1)
    assert [entry.seq for entry in old.log.find(Query(before_seq=11))] == [1, 2]
    assert old.verify().superseded == 23


def test_tampering_with_the_hashes_of_an_archive_is_found(old):
    old.log.archive(NOW)
    old.admin.execute("ALTER TABLE secmon.audit_leaves DISABLE TRIGGER ALL")
    old.admin.execute(
        "UPDATE secmon.audit_leaves SET entry_hashes ="
        " set_byte(entry_hashes, 3, 255 - get_byte(entry_hashes, 3)) WHERE first_seq = 1"
    )
    assert {finding.problem for finding in old.verify().checkpoint_problems} == {"checkpoint_root"}
    old.admin.execute("DELETE FROM secmon.audit_leaves WHERE first_seq = 11")
    assert "archive" in {finding.problem for finding in old.verify().chain_breaks}


def test_archived_entries_are_not_exported_but_said_to_be_elsewhere(old):
    old.log.archive(NOW)
    content = json.loads(old.log.export_chain())
    assert content["first_seq"] == 21
    with pytest.raises(InvalidInputError, match=r"range is '5–25'; allowed: within 21–27"):
        old.log.export_to(print, first_seq=5, last_seq=25)


def test_an_announced_restore_gives_up_what_was_lost_and_nothing_else(old):
    old.unguard()
    old.admin.execute("DELETE FROM secmon.audit_entries WHERE seq > 15")
    old.admin.execute(
        "UPDATE secmon.audit_head h SET seq = e.seq, entry_hash = e.entry_hash"
        " FROM secmon.audit_entries e WHERE e.seq = 15"
    )
    assert old.verify().verdict == "tampered"
    publication = old.log.new_incarnation("disk failure, backup of Monday")
    assert publication.note.startswith("secmon-dagster/audit#2\n16\n")
    old.fill(3)
    old.log.checkpoint()
    result = old.verify()
    # The checkpoint over the first 7 still counts.
    assert (result.verdict, result.incarnation, result.checkpoints_checked) == ("valid", 2, 3)
    # An announcement still counts when it is archived, but not one that is not in the tree.
    old.fill(2)
    old.log.checkpoint()
    assert [part.last_seq for part in old.log.archive(NOW)] == [10, 20]
    assert (old.verify().verdict, old.verify().archived) == ("valid", 20)
    old.admin.execute("ALTER TABLE secmon.audit_archives DISABLE TRIGGER ALL")
    ((row,),) = old.admin.execute(
        "SELECT announcements[1] FROM secmon.audit_archives WHERE first_seq = 11"
    ).fetchall()
    old.admin.execute(
        "UPDATE secmon.audit_archives SET announcements = %s WHERE first_seq = 11",
        ([row.replace(b'"restored_to":15', b'"restored_to":14')],),
    )
    assert old.verify().verdict == "tampered"


def test_an_edit_beneath_an_announced_restore_is_found(old):
    old.unguard()
    old.log.new_incarnation("moved to another machine")
    old.admin.execute("UPDATE secmon.audit_entries SET actor = 'x' WHERE seq = 3")
    assert old.verify().verdict == "tampered"


def test_entries_that_a_superuser_calls_archived_are_counted_and_not_missed(old):
    """An expected miss of docs/threat-model.md."""
    old.unguard()
    with old.log.store.snapshot() as snapshot:
        hashes = b"".join(snapshot.leaves(1, 5))
    old.admin.execute("DELETE FROM secmon.audit_entries WHERE seq <= 5")
    assert old.verify().verdict == "tampered"
    old.admin.execute("INSERT INTO secmon.audit_leaves VALUES (1, 5, %s)", (hashes,))
    old.admin.execute(
        "INSERT INTO secmon.audit_archives (first_seq, last_seq, manifest_id, file, file_sha256)"
        " VALUES (1, 5, 'x', 'x', 'x')"
    )
    assert (old.verify().verdict, old.verify().archived) == ("valid", 5)
    with pytest.raises(NotFoundError, match="archive file .* is missing"):
        old.log.restore(1)
