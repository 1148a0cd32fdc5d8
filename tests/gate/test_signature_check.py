"""The signature check: which signatures are believed, run as a script as the gate runs it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secmon_dagster.gate import Outcome, run_security_check
from secmon_dagster.settings import bundled_scripts

CONTENT = b"weights"
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line(content: bytes = CONTENT, name: str = "model") -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return f"secmon-artifact-v1 {digest} {len(content)} {name}".encode()


def check(name: str = "model", content: bytes = CONTENT, **config: object):
    return run_security_check(
        "a", name, "model", script_name="signature_check.py", size=len(content),
        sha256=hashlib.sha256(content).hexdigest(), config=config, timeout=30.0,
    )  # fmt: skip


TRUSTED = [coded(KEY.public_key().public_bytes_raw())]
SIGNED = coded(KEY.sign(line()))


def test_a_signature_by_a_trusted_key_passes():
    assert check(public_keys=TRUSTED, signature=SIGNED).outcome is Outcome.ALLOW


def test_any_of_several_keys_and_signatures_by_digest_pass():
    keys = [coded(OTHER.public_key().public_bytes_raw()), *TRUSTED]
    by_digest = {hashlib.sha256(CONTENT).hexdigest(): SIGNED}
    assert check(public_keys=keys, signatures=by_digest).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"signature": coded(OTHER.sign(line()))}, "bad-signature"),
        ({"content": b"weightz"}, "bad-signature"),
        ({"name": "another"}, "bad-signature"),
        ({"signature": coded(KEY.sign(CONTENT))}, "bad-signature"),
        ({"signature": SIGNED[:-4]}, "bad-signature"),
        ({"signature": "not base64!"}, "bad-signature"),
        ({"signature": ""}, "unsigned"),
        ({"signature": None}, "unsigned"),
        ({"signature": None, "signatures": {"0" * 64: SIGNED}}, "unsigned"),
    ],
    ids=["wrong-key", "changed-bytes", "renamed", "no-manifest", "cut", "text", "empty", "none",
         "for-other-bytes"],
)  # fmt: skip
def test_anything_else_blocks(changed, rule):
    result = check(**{"public_keys": TRUSTED, "signature": SIGNED, **changed})
    assert result.outcome is Outcome.BLOCK, result.stderr
    assert [found["rule"] for found in result.findings] == [rule]


@pytest.mark.parametrize("keys", [None, [], "x", ["AAAA"], [5]])
def test_keys_that_cant_be_read_are_a_script_error(keys):
    assert check(public_keys=keys, signature=SIGNED).outcome is Outcome.SCRIPT_ERROR


def test_it_runs_alone_from_a_shell():
    script = Path(bundled_scripts()) / "signature_check.py"
    done = subprocess.run(
        [sys.executable, str(script), "--artifact-id", "a", "--name", "model",
         "--size", str(len(CONTENT)), "--sha256", hashlib.sha256(CONTENT).hexdigest(),
         "--config", json.dumps({"public_keys": TRUSTED, "signature": SIGNED})],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["recommendation"]) == (0, "allow")
