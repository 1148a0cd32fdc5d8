from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.audit.checkpoint import Checkpoint, incarnation_of, origin_of
from secmon_dagster.audit.keys import KeyRing, LocalKey, load_signer, new_key_file
from secmon_dagster.audit.note import NoteKey, open_note
from secmon_dagster.errors import CheckpointError, SettingsError
from secmon_dagster.settings import load_settings

KEY = LocalKey("log", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
OTHER = LocalKey("log", Ed25519PrivateKey.from_private_bytes(b"o" * 32))


@given(st.data())
def test_one_changed_character_is_noticed(data):
    note = Checkpoint("log", 7, b"r" * 32).sign([KEY])
    place = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[place]))
    changed = note[:place] + other + note[place + 1 :]
    try:
        text, signed = open_note(changed, [KEY.key])
    except CheckpointError:
        return
    # What is left: another name or key id, that is, somebody else's signature.
    assert signed == [] or text == open_note(note, [KEY.key])[0]


@pytest.mark.parametrize(
    ("note", "complaint"),
    [
        ("", "no signatures, or is cut off"),
        ("text\n", "no signatures, or is cut off"),
        ("text\n\n— log AAAA", "no signatures, or is cut off"),
        ("text\n\nlog AAAA\n", "signature line is malformed"),
        ("text\n\n— log A*AA\n", "a signature is no base64"),
        ("text\n\n— log AAAA\n", "a signature is too short"),
        ("te\rxt\n\n— log AAAAAAAA\n", "control characters"),
        ("x" * 1_000_001, "longer than 1000000 bytes"),
        ("text\n\n" + "— log AAAAAAAA\n" * 101, "101 signatures; allowed: 100"),
    ],
)
def test_a_malformed_note_is_refused(note, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        open_note(note, [KEY.key])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("log", "no Ed25519 key"),
        ("log+00000000+!", "is no base64"),
        (str(KEY.key).replace(KEY.key.key_id.hex(), "00000000"), "has the id .* but says"),
        ("a b+" + str(KEY.key).partition("+")[2], "a key is named 'a b'"),
    ],
)
def test_a_malformed_key_is_refused(text, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        NoteKey.from_text(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("log\n7\n", "has 2 lines"),
        (f"\n7\n{base64.b64encode(b'r' * 32).decode()}\n", "empty origin"),
        (f"log\n07\n{base64.b64encode(b'r' * 32).decode()}\n", "size is '07'"),
        (f"log\n-1\n{base64.b64encode(b'r' * 32).decode()}\n", "size is '-1'"),
        (f"log\n7\n{base64.b64encode(b'r' * 31).decode()}\n", "needed: 32 bytes"),
        ("log\n7\nnot base64\n", "needed: 32 bytes"),
    ],
)
def test_a_malformed_checkpoint_names_its_line(text, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        Checkpoint.from_text(text)


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_survives_signing_and_opening(size, root):
    checkpoint = Checkpoint("secmon-dagster/audit", size, root)
    assert Checkpoint.open(checkpoint.sign([KEY]), [KEY.key]) == (checkpoint, [KEY.key])


def test_a_note_by_an_unknown_key_is_not_signed_and_not_an_error():
    note = Checkpoint("log", 7, b"r" * 32).sign([OTHER])
    assert Checkpoint.open(note, [KEY.key])[1] == []


def test_incarnations_have_origins_of_their_own():
    for number in (1, 2, 11):
        assert incarnation_of(origin_of("log", number), "log") == number
    for other in ("other", "log#1", "log#x", "log#", "logs"):
        assert incarnation_of(other, "log") is None


def test_a_newer_key_does_not_vouch_for_older_sizes():
    ring = KeyRing().with_key(KEY.key, 0).with_key(OTHER.key, 100)
    assert ring.refusal(KEY.key, 5) is ring.refusal(OTHER.key, 100) is None
    assert "from size 100 on, not 99" in ring.refusal(OTHER.key, 99)


def test_a_ring_survives_its_file(tmp_path):
    ring = KeyRing().with_key(KEY.key, 0).with_key(OTHER.key, 100)
    ring.save(tmp_path / "keys" / "ring")
    assert KeyRing.load(tmp_path / "keys" / "ring") == ring
    assert KeyRing.load(tmp_path / "none") == KeyRing()


def test_a_key_file_is_made_once_and_only_its_owner_reads_it(home):
    settings = load_settings()
    first, again = load_signer(settings), load_signer(settings)
    assert first.key == again.key
    path = home / "keys" / "audit.key"
    assert path.stat().st_mode & 0o777 == 0o600
    rotated = new_key_file(path, "log")
    assert rotated.key != first.key
    assert (home / "keys" / "audit.key.old-1").exists()


def test_a_pem_key_signs(monkeypatch):
    pem = KEY.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", pem.decode())
    monkeypatch.setenv("SECMON_AUDIT_ORIGIN", "log")
    assert load_signer(load_settings()).key == KEY.key


def test_a_wrong_key_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", "PRIVATE+KEY+log+00+c2VjcmV0")
    with pytest.raises(SettingsError, match="SECMON_AUDIT_SIGNING_KEY holds no Ed25519") as caught:
        load_signer(load_settings())
    assert "c2VjcmV0" not in str(caught.value)
    assert "k" * 8 not in repr(KEY)


def test_a_key_behind_securesystemslib_signs(tmp_path, monkeypatch):
    from securesystemslib.signer import CryptoSigner

    signer = CryptoSigner.generate_ed25519()
    (tmp_path / "private.pem").write_bytes(signer.private_bytes)
    public = signer.public_key.to_dict() | {"keyid": signer.public_key.keyid}
    (tmp_path / "public.json").write_text(json.dumps(public))
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", f"uri:file2:{tmp_path / 'private.pem'}")
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY_FILE", str(tmp_path / "public.json"))
    remote = load_signer(load_settings())
    note = Checkpoint("log", 1, b"r" * 32).sign([remote])
    assert Checkpoint.open(note, [remote.key])[1] == [remote.key]
