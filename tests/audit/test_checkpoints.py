"""The signer, its witnesses and the proofs, on a real chain."""

from __future__ import annotations

import errno
import json
import os
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fsspec.implementations.memory import MemoryFileSystem

from secmon_dagster.audit import signer
from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.audit.keys import KeyRing, LocalKey, load_signer, new_key_file
from secmon_dagster.audit.proof import check_proof, prove_consistency
from secmon_dagster.audit.verify import Trust
from secmon_dagster.audit.witness import FileWitness, StoreWitness
from secmon_dagster.errors import (
    ChainTamperedError,
    CheckpointError,
    InvalidInputError,
    SettingsError,
)
from secmon_dagster.settings import get_settings

LOCAL = "witness/checkpoints.jsonl"


def forget(chain, seq):
    """Entries, head and checkpoints as an old backup had them."""
    chain.unguard()
    chain.admin.execute("ALTER TABLE secmon.audit_checkpoints DISABLE TRIGGER ALL")
    chain.admin.execute("DELETE FROM secmon.audit_entries WHERE seq > %s", (seq,))
    chain.admin.execute("DELETE FROM secmon.audit_checkpoints WHERE size > %s", (seq,))
    chain.admin.execute(
        "UPDATE secmon.audit_head h SET seq = e.seq, entry_hash = e.entry_hash"
        " FROM secmon.audit_entries e WHERE e.seq = %s",
        (seq,),
    )


def problems(chain, **options):
    return {finding.problem.value for finding in chain.verify(**options).checkpoint_problems}


def test_a_checkpoint_covers_all_entries_and_verifies(chain):
    chain.fill(5)
    publication = chain.log.checkpoint()
    assert (publication.size, publication.new) == (5, True)
    chain.fill(2)
    result = chain.verify()
    assert (result.checkpoint_size, result.uncovered_tail, result.verdict) == (5, 2, "valid")
    assert FileWitness(chain.home / LOCAL).notes() == [publication.note]


def test_an_interval_without_entries_makes_no_new_checkpoint(chain):
    chain.fill(5)
    first = chain.log.checkpoint()
    again = chain.log.checkpoint()
    assert (again.note, again.new) == (first.note, False)
    assert len(FileWitness(chain.home / LOCAL).notes()) == 1
    chain.fill(1)
    assert chain.log.checkpoint().size == 6
    assert chain.verify().verdict == "valid"


def test_truncating_and_continuing_gets_no_signature(chain):
    chain.fill(10)
    chain.log.checkpoint()
    forget(chain, 7)
    with pytest.raises(CheckpointError, match="has 7 entries, but 10 were signed"):
        chain.log.checkpoint()
    chain.fill(5)
    with pytest.raises(CheckpointError, match="the new entries don't hold"):
        chain.log.checkpoint()
    # The database's own copy is gone with the backup; the witness's is not.
    assert problems(chain) == {"checkpoint_root"}


def test_a_log_replaced_at_equal_size_gets_no_signature(chain):
    chain.fill(10)
    chain.log.checkpoint()
    forget(chain, 9)
    chain.fill(1, actor="mallory")
    with pytest.raises(CheckpointError, match="entry 10 is not the one that was signed"):
        chain.log.checkpoint()


def test_a_log_rewritten_together_with_every_note_is_stopped_only_by_the_signer(chain):
    """An expected miss of docs/threat-model.md: nobody outside holds anything."""
    chain.fill(10)
    chain.log.checkpoint()
    forget(chain, 7)
    chain.fill(5, actor="mallory")
    (chain.home / LOCAL).unlink()
    assert chain.verify().verdict == "valid"
    with pytest.raises(CheckpointError, match="the new entries don't hold"):
        chain.log.checkpoint()


def test_a_signer_whose_state_is_lost_recovers_from_witness_and_database(chain):
    chain.fill(10)
    first = chain.log.checkpoint()
    (chain.home / "keys" / "audit-signer.json").unlink()
    assert chain.log.checkpoint().note == first.note
    (chain.home / "keys" / "audit-signer.json").unlink()
    forget(chain, 7)
    with pytest.raises(CheckpointError, match="has 7 entries, but 10 were signed"):
        chain.log.checkpoint()
    chain.fill(5)
    with pytest.raises(CheckpointError, match="are not those that were signed"):
        chain.log.checkpoint()


def test_a_full_disk_is_a_refusal_after_which_nothing_is_published(chain, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    chain.fill(3)
    load_signer(get_settings())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            chain.log.checkpoint()
    assert not (chain.home / LOCAL).exists()
    assert chain.log.store.latest_checkpoint() is None
    assert chain.log.checkpoint().size == 3


def test_entries_that_do_not_hold_are_not_signed(chain):
    chain.fill(10)
    chain.unguard()
    chain.admin.execute("UPDATE secmon.audit_entries SET actor = 'x' WHERE seq = 4")
    with pytest.raises(CheckpointError, match=r"don't hold \(entry 4\); nothing was signed"):
        chain.log.checkpoint()
    assert not (chain.home / LOCAL).exists()


def test_rehashing_with_a_newer_key_is_caught(chain):
    chain.fill(10)
    chain.log.checkpoint()
    chain.fill(10)
    new_key_file(chain.home / "keys" / "audit.key", "log")
    chain.log.checkpoint()
    # The thief of the newer key re-signs the size that the older one signed.

    thief = load_signer(get_settings())
    forged = Checkpoint(get_settings().audit_origin, 10, b"x" * 32).sign([thief])
    assert problems(chain, trust=trust_with(chain, forged)) == {"checkpoint_signature"}


def test_two_checkpoints_of_one_size_are_a_contradiction(chain):
    chain.fill(10)
    chain.log.checkpoint()

    other = Checkpoint(get_settings().audit_origin, 10, b"x" * 32)
    forged = other.sign([load_signer(get_settings())])
    assert "checkpoint_conflict" in problems(chain, trust=trust_with(chain, forged))


def test_an_older_checkpoint_replayed_is_no_problem_and_covers_no_more(chain):
    chain.fill(10)
    old = chain.log.checkpoint().note
    chain.fill(10)
    chain.log.checkpoint()
    result = chain.verify(trust=trust_with(chain, old))
    assert (result.verdict, result.checkpoint_size) == ("valid", 20)


def test_a_checkpoint_by_an_unknown_key_only_leaves_the_verdict_open(chain):
    chain.fill(10)
    stranger = LocalKey("s", Ed25519PrivateKey.generate())
    note = Checkpoint(get_settings().audit_origin, 10, b"x" * 32).sign([stranger])
    result = chain.verify(trust=trust_with(chain, note))
    assert (result.verdict, result.checkpoints_unreadable) == ("unknown", 1)


def test_a_malformed_stored_checkpoint_is_a_problem(chain):
    chain.fill(10)
    assert problems(chain, trust=trust_with(chain, "rubbish")) == {"checkpoint_signature"}


def trust_with(chain, note):
    trust = chain.log.trust()
    return Trust(trust.name, trust.ring, [*trust.notes, note])


def test_old_notes_stay_valid_after_a_rotation(chain):
    chain.fill(3)
    chain.log.checkpoint()
    chain.fill(3)
    new_key_file(chain.home / "keys" / "audit.key", "log")
    chain.log.checkpoint()
    result = chain.verify()
    assert (result.verdict, result.checkpoints_checked) == ("valid", 2)
    assert len(KeyRing.load(chain.home / "keys" / "audit.pub").entries) == 2


def test_a_checkpoint_made_after_the_clock_was_set_back_is_the_latest(chain, monkeypatch):
    class SetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=1)

    chain.fill(3)
    chain.log.checkpoint()
    monkeypatch.setattr(signer, "datetime", SetBack)
    (entry_id,) = chain.fill(1)
    chain.log.checkpoint()
    assert chain.log.store.latest_checkpoint().size == 4
    assert chain.log.window().entries == 0
    assert chain.log.prove(entry_id)["entry"]["seq"] == 4


def test_verifying_since_the_checkpoint_reads_only_what_is_new(chain):
    chain.fill(100)
    chain.log.checkpoint()
    chain.fill(3)
    result = chain.verify(since_checkpoint=True)
    assert (result.first_seq, result.verified_entries, result.verdict) == (101, 3, "valid")
    chain.unguard()
    chain.admin.execute("UPDATE secmon.audit_entries SET actor = 'x' WHERE seq = 102")
    assert chain.verify(since_checkpoint=True).verdict == "tampered"


def test_a_range_is_verified_alone(chain):
    chain.fill(10)
    chain.log.checkpoint()
    result = chain.verify(first_seq=4, last_seq=6)
    assert (result.first_seq, result.last_seq, result.verified_entries) == (4, 6, 3)
    assert result.verdict == "valid"
    later = chain.log.get_entry(chain.fill(2)[0]).timestamp
    chain.fill(3)
    result = chain.verify(start_time=later, end_time=later)
    assert (result.first_seq, result.last_seq, result.verified_entries) == (11, 12, 2)
    with pytest.raises(InvalidInputError, match="within 1–15"):
        chain.verify(first_seq=17)


def test_a_witness_that_is_down_is_reported_and_gets_the_next_one(chain, monkeypatch):
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}/add"
    server.server_close()
    monkeypatch.setenv("SECMON_AUDIT_WITNESSES", url)
    get_settings.cache_clear()
    chain.fill(3)
    publication = chain.log.checkpoint()
    assert publication.failed == {
        url.replace(f":{server.server_port}", ""): ("witness http://127.0.0.1/add: ConnectError")
    }
    chain.fill(1)  # appends go on
    server = HTTPServer(("127.0.0.1", server.server_port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    publication = chain.log.checkpoint()
    server.shutdown()
    server.server_close()
    assert publication.failed == {}
    assert received == [publication.note]


def test_a_store_keeps_one_object_a_checkpoint_and_refuses_a_contradiction(tmp_path):
    key = LocalKey("log", Ed25519PrivateKey.generate())
    witness = StoreWitness(str(tmp_path / "bucket"))
    note = Checkpoint("a/b", 7, b"r" * 32).sign([key])
    witness.publish(note)
    witness.publish(note)
    assert witness.notes() == [note]
    with pytest.raises(CheckpointError, match="holds another checkpoint of size 7"):
        witness.publish(Checkpoint("a/b", 7, b"x" * 32).sign([key]))
    memory = StoreWitness("memory://somewhere/notes")
    memory.publish(note)
    assert memory.notes() == [note]


def test_a_witness_file_with_a_cut_off_last_line_still_gives_its_notes(tmp_path):
    witness = FileWitness(tmp_path / "w" / "notes.jsonl")
    witness.publish("one")
    with witness.path.open("a") as file:
        file.write('{"at": "2026')
    assert witness.notes() == ["one"]


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next_one(chain):
    chain.fill(3)
    first = chain.log.checkpoint()
    with (chain.home / LOCAL).open("ab") as file:
        file.write(b'{"at": "2026-11-30T01:00:00", "no')
    chain.fill(3)
    second = chain.log.checkpoint()
    assert FileWitness(chain.home / LOCAL).notes() == [first.note, second.note]
    assert chain.verify().verdict == "valid"


def test_whatever_a_stores_driver_raises_is_a_witness_that_is_down(chain, monkeypatch):
    class NoCredentialsError(Exception):
        """As the drivers of object stores have them: no OSError."""

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setenv("SECMON_AUDIT_WITNESSES", "memory://refusing/notes")
    get_settings.cache_clear()
    chain.fill(3)
    chain.log.checkpoint()
    monkeypatch.setattr(MemoryFileSystem, "exists", refuse)
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    chain.fill(1)
    publication = chain.log.checkpoint()
    assert publication.published == (str(chain.home / LOCAL),)
    assert "Unable to locate credentials" in publication.failed["memory://refusing/notes"]
    assert chain.verify().verdict == "unknown"


def test_a_witness_of_an_unknown_kind_is_a_wrong_setting(chain, monkeypatch):
    monkeypatch.setenv("SECMON_AUDIT_WITNESSES", "nosuch://bucket/notes")
    get_settings.cache_clear()
    chain.fill(1)
    with pytest.raises(SettingsError, match="witness nosuch://bucket/notes"):
        chain.log.checkpoint()


def test_two_processes_that_make_the_first_key_at_once_agree_on_one(home, monkeypatch):
    first = load_signer(get_settings())
    really, looked = Path.exists, []

    def looked_before_it_was_there(path):
        looked.append(path)
        return len(looked) > 1 and really(path)

    monkeypatch.setattr(Path, "exists", looked_before_it_was_there)
    assert load_signer(get_settings()).key == first.key
    assert (home / "keys" / "audit.key").stat().st_mode & 0o777 == 0o600


def test_a_key_ring_is_replaced_as_a_whole(tmp_path):
    key = LocalKey("log", Ed25519PrivateKey.generate()).key
    ring = KeyRing().with_key(key, 0)
    ring.save(tmp_path / "ring")
    with (tmp_path / "ring").open() as reading:
        ring.with_key(LocalKey("log", Ed25519PrivateKey.generate()).key, 7).save(tmp_path / "ring")
        assert reading.read() == f"{key} 0\n"
    assert len(KeyRing.load(tmp_path / "ring").entries) == 2


def test_a_witness_that_can_not_be_read_leaves_the_verdict_open(chain, monkeypatch):
    chain.fill(3)
    chain.log.checkpoint()
    (chain.home / "elsewhere.jsonl").mkdir()
    monkeypatch.setenv("SECMON_AUDIT_WITNESSES", str(chain.home / "elsewhere.jsonl"))
    get_settings.cache_clear()
    result = chain.verify()
    assert (result.verdict, result.checkpoints_checked) == ("unknown", 1)
    assert "elsewhere.jsonl: Is a directory" in result.notes[0]


@pytest.mark.parametrize("line", [b"{}", b"rubbish", b"\xff", b'{"note": 7}', b"[]"])
def test_a_line_of_a_witness_that_is_no_note_is_a_problem(chain, line):
    chain.fill(3)
    chain.log.checkpoint()
    with (chain.home / "witness" / "checkpoints.jsonl").open("ab") as file:
        file.write(line + b"\n")
    result = chain.verify()
    assert [problem.problem for problem in result.checkpoint_problems] == ["checkpoint_signature"]


def test_peaks_that_do_not_fit_are_not_built_upon(chain):
    chain.fill(3)
    chain.log.checkpoint()
    chain.fill(3)
    chain.admin.execute("ALTER TABLE secmon.audit_checkpoints DISABLE TRIGGER ALL")
    for peaks in ("decode(repeat('00', 32), 'hex')", "decode(repeat('00', 64), 'hex')"):
        chain.admin.execute(f"UPDATE secmon.audit_checkpoints SET peaks = {peaks}")
        result = chain.verify(since_checkpoint=True)
        assert (result.verdict, result.first_seq) == ("valid", 1)  # all of it was read


@pytest.mark.parametrize(
    "change", [{"previous_hash": "00" * 32 + "ff"}, {"previous_hash": ""}, {"seq": "1"},
               {"seq": 2**70}, {"timestamp": "2026-01-01T00:00:00"}, {"actor": 7}],
)  # fmt: skip
def test_a_proof_of_an_entry_with_a_field_of_another_type_or_length_fails(chain, change):
    (entry_id,) = chain.fill(1)
    chain.log.checkpoint()
    proof = chain.log.prove(entry_id)
    proof["entry"] |= change
    with pytest.raises((ChainTamperedError, InvalidInputError)):
        check_proof(proof, chain.log.trust().ring)


def test_an_inclusion_proof_holds_offline_and_for_nothing_else(chain):
    ids = chain.fill(11, data={"x": 1})
    chain.log.checkpoint()
    ring = KeyRing.load(chain.home / "keys" / "audit.pub")
    for entry_id in ids:
        proof = json.loads(json.dumps(chain.log.prove(entry_id)))
        assert "is in the log of 11 entries" in check_proof(proof, ring).sentence
    with pytest.raises(ChainTamperedError, match="does not have its hash"):
        check_proof(proof | {"entry": proof["entry"] | {"actor": "b"}}, ring)
    with pytest.raises(ChainTamperedError, match="does not hold|is not in the log"):
        check_proof(proof | {"path": proof["path"][1:]}, ring)
    with pytest.raises(CheckpointError, match="signed by no known key"):
        check_proof(proof, KeyRing())
    with pytest.raises(InvalidInputError, match="incomplete"):
        check_proof({key: value for key, value in proof.items() if key != "path"}, ring)
    with pytest.raises(InvalidInputError, match="format is None"):
        check_proof({}, ring)


def test_an_entry_newer_than_the_checkpoint_has_no_proof_yet(chain):
    chain.fill(2)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        chain.log.prove(chain.fill(1)[0])
    chain.log.checkpoint()
    with pytest.raises(CheckpointError, match="entry 4 is newer than the last checkpoint"):
        chain.log.prove(chain.fill(1)[0])


def test_a_consistency_proof_shows_that_the_log_only_grew(chain):
    notes = []
    for count in (3, 4, 1):
        chain.fill(count)
        notes.append(chain.log.checkpoint().note)
    ring = KeyRing.load(chain.home / "keys" / "audit.pub")
    with chain.log.store.snapshot() as snapshot:
        proofs = [
            prove_consistency(snapshot, old, new)
            for number, old in enumerate(notes)
            for new in notes[number:]
        ]
        with pytest.raises(CheckpointError, match="the old checkpoint has 8 entries"):
            prove_consistency(snapshot, notes[2], notes[0])
    for proof in proofs:
        assert "grew from" in check_proof(proof, ring).sentence
    broken = proofs[1] | {"path": ["00" * 32, *proofs[1]["path"][1:]]}
    with pytest.raises(ChainTamperedError, match="is not the beginning"):
        check_proof(broken, ring)


def test_verifying_on_all_cores_finds_what_one_core_finds(chain, monkeypatch):
    monkeypatch.setattr("secmon_dagster.audit.reading.CHUNK", 256)
    monkeypatch.setattr("secmon_dagster.audit.reading.PARALLEL_FROM", 512)
    for count in (100, 700, 1):
        chain.fill(count)
        chain.log.checkpoint()
    chain.fill(300)
    chain.unguard()

    def both():
        one, two = chain.log.verification(workers=1), chain.log.verification(workers=2)
        for result in (one, two):
            object.__setattr__(result, "duration_ms", 0)
        return one, two

    one, two = both()
    assert one == two
    assert (one.verdict, one.checkpoints_checked) == ("valid", 3)
    chain.admin.execute("UPDATE secmon.audit_entries SET actor = 'x' WHERE seq = 600")
    one, two = both()
    assert one == two
    assert [finding.seq for finding in two.invalid_entries] == [600]
    chain.admin.execute("DELETE FROM secmon.audit_entries WHERE seq = 513")
    one, two = both()
    assert one.verdict == two.verdict == "tampered"
    assert {f.seq for f in one.chain_breaks} <= {f.seq for f in two.chain_breaks}
