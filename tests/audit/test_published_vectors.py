"""Trees, proofs and notes against what others published; each golden file names source and licence.

The signed notes are those of the C2SP specifications and of golang.org/x/mod/sumdb/note
(BSD-3-Clause), the reference implementation of signed notes.
"""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.audit.keys import load_signer
from secmon_dagster.audit.merkle import (
    Frontier,
    SubtreeHasher,
    root_from_inclusion,
    roots_from_consistency,
)
from secmon_dagster.audit.note import NoteKey, open_note, sign_note
from secmon_dagster.errors import CheckpointError
from secmon_dagster.settings import load_settings

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    assert content["source"].startswith("https://")
    assert content["licence"]
    return content


RFC6962 = golden("rfc6962")
LEAVES = [bytes.fromhex(leaf) for leaf in RFC6962["leaves"]]
PUBLISHED_LOG = golden("published_log")


def hashes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def hasher(entries: list[bytes]) -> SubtreeHasher:
    return SubtreeHasher(lambda first, count: entries[first : first + count])


# --- the vectors of Certificate Transparency ------------------------------------------------------


def test_the_tree_has_the_published_root_at_every_size():
    tree = Frontier()
    roots = [tree.root.hex()]
    for leaf in LEAVES:
        tree.append(leaf)
        roots.append(tree.root.hex())
    assert roots == RFC6962["roots"]


@pytest.mark.parametrize(("index", "size", "path"), RFC6962["inclusion"])
def test_inclusion_paths_are_the_published_ones(index, size, path):
    assert hasher(LEAVES).inclusion_path(index, size) == hashes(path)
    root = root_from_inclusion(LEAVES[index], index, size, hashes(path))
    assert root.hex() == RFC6962["roots"][size]


@pytest.mark.parametrize(("old", "new", "path"), RFC6962["consistency"])
def test_consistency_paths_are_the_published_ones(old, new, path):
    assert hasher(LEAVES).consistency_path(old, new) == hashes(path)
    roots = hashes([RFC6962["roots"][old], RFC6962["roots"][new]])
    assert list(roots_from_consistency(old, new, roots[0], hashes(path))) == roots


def test_a_log_of_a_billion_certificates_proves_an_entry_and_its_own_growth():
    log = golden("argon2020")
    root, old_root = b64decode(log["root"]), b64decode(log["old_root"])
    inclusion = [b64decode(step) for step in log["inclusion"]]
    size, leaf = log["tree_size"], b64decode(log["leaf"])
    assert root_from_inclusion(leaf, log["leaf_index"], size, inclusion) == root
    assert root_from_inclusion(leaf, log["leaf_index"] ^ 1, size, inclusion) != root
    consistency = [b64decode(step) for step in log["consistency"]]
    assert roots_from_consistency(log["old_size"], size, old_root, consistency) == (old_root, root)


# --- a published log: entries, key, and a signed checkpoint at several sizes ----------------------


@pytest.mark.parametrize("note", PUBLISHED_LOG["checkpoints"])
def test_a_published_checkpoint_is_the_one_we_would_sign(note, monkeypatch):
    key = NoteKey.from_text(PUBLISHED_LOG["public_key"])
    checkpoint, signed = Checkpoint.open(note, [key])
    assert signed == [key]
    tree = Frontier()
    tree.extend([entry.encode() for entry in PUBLISHED_LOG["entries"][: checkpoint.size]])
    assert (checkpoint.size, checkpoint.root) == (tree.size, tree.root)
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", PUBLISHED_LOG["secret_key"])
    signer = load_signer(load_settings())
    assert Checkpoint("example.com/testdata", tree.size, tree.root).sign([signer]) == note


# --- signed notes ---------------------------------------------------------------------------------

TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6"
    "KE6RyyBwJnAM=\n"
)
ENOCH = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WW"
    "d1RvMc+QQ=\n"
)
MISSPELT = ENOCH[:60] + "ABCD" + ENOCH[60:]


def test_signing_gives_the_reference_note(monkeypatch):
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", PETER_SECRET)
    signer = load_signer(load_settings())
    assert sign_note(TEXT, [signer]) == TEXT + "\n" + PETER
    assert (str(signer.key), signer.secret_text) == (PETER_KEY, PETER_SECRET)


@pytest.mark.parametrize(
    ("keys", "signatures", "signed"),
    [
        pytest.param([PETER_KEY], PETER, [PETER_KEY], id="one"),
        pytest.param([PETER_KEY], PETER + ENOCH, [PETER_KEY], id="one known, one not"),
        pytest.param([PETER_KEY, ENOCH_KEY], PETER + ENOCH, [PETER_KEY, ENOCH_KEY], id="both"),
        pytest.param([], PETER + ENOCH, [], id="none known"),
        pytest.param([PETER_KEY], PETER + PETER + ENOCH, [PETER_KEY], id="twice the same"),
        pytest.param([PETER_KEY], PETER + MISSPELT, [PETER_KEY], id="an unknown one that is wrong"),
    ],
)
def test_a_reference_note_is_signed_by(keys, signatures, signed):
    found = open_note(TEXT + "\n" + signatures, [NoteKey.from_text(key) for key in keys])
    assert found == (TEXT, [NoteKey.from_text(key) for key in signed])


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(TEXT, id="no signature"),
        pytest.param(TEXT + "\n", id="no signature after the blank line"),
        pytest.param(TEXT + "\n" + PETER[:-1], id="cut off"),
        pytest.param("\x01" + TEXT + "\n" + PETER, id="control character"),
        pytest.param("\udcff" + TEXT + "\n" + PETER, id="no UTF-8"),
        pytest.param(TEXT + "\n" + PETER.replace("PeterNeumann", "Bad Name"), id="blank in a name"),
        pytest.param(TEXT + "\n" + PETER + "Unexpected line.\n", id="line after the signatures"),
        pytest.param(TEXT + "\n" + PETER * 101, id="101 signatures"),
        pytest.param(TEXT + "\n" + PETER[:60] + "ABCD" + PETER[60:], id="wrong signature"),
    ],
)
def test_a_note_that_the_reference_refuses_is_refused(note):
    with pytest.raises(CheckpointError):
        open_note(note, [NoteKey.from_text(PETER_KEY)])


def test_no_part_of_a_key_and_no_changed_key_is_a_key():
    mangled = [
        PETER_KEY[start:end]
        for start in range(len(PETER_KEY) + 1)
        for end in range(start + 1, len(PETER_KEY) + 1)
        if (start, end) != (0, len(PETER_KEY))
    ]
    mangled += [
        PETER_KEY[:at] + chr(ord(character) + 1) + PETER_KEY[at + 1 :]
        for at, character in enumerate(PETER_KEY)
    ]
    mangled += [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another algorithm
    ]
    for text in mangled:
        with pytest.raises(CheckpointError):
            NoteKey.from_text(text)


SPECIFICATION_NOTE = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU"
    "0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SPECIFICATION_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q"
    "1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def test_the_notes_of_the_specifications_are_read():
    """c2sp.org/signed-note and c2sp.org/tlog-checkpoint print them without their keys."""
    text, signed = open_note(SPECIFICATION_NOTE, [NoteKey.from_text(PETER_KEY)])
    assert (text.count("\n"), text[-18:], signed) == (4, "ed è subito sera.\n", [])
    checkpoint, _ = Checkpoint.open(SPECIFICATION_CHECKPOINT, [])
    root = b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, root)
