"""The signature check: which signatures are believed, run as a script as the gate runs it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import signing

from secmon_dagster.gate import Gatekeeper, Outcome, run_security_check
from secmon_dagster.gate.policy import set_config
from secmon_dagster.settings import bundled_scripts
from tests.conftest import Database

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


@pytest.fixture
def signed(tmp_path: Path):
    """A file, and the configuration under which its bundle is believed."""
    file, key = tmp_path / "model.skops", ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(CONTENT)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    signer = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    signer.sign(file, tmp_path / "bundle.json")
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return file, public.decode(), (tmp_path / "bundle.json").read_text()


def check_bundle(file: Path, public_key: str, bundle: str | None, scripts_dir: Path | None = None):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    told = {"public_key": public_key, "bundles": {digest: bundle} if bundle else {}}
    return run_security_check(
        "a", "model", "model", script_name="signature_check.py", path=file, sha256=digest,
        size=file.stat().st_size, config={"model_signing": told}, timeout=30.0,
        scripts_dir=scripts_dir,
    )  # fmt: skip


def test_a_bundle_of_model_signing_passes_for_its_file_and_key_only(signed):
    file, public, bundle = signed
    assert check_bundle(*signed).outcome is Outcome.ALLOW, check_bundle(*signed)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    refused = [check_bundle(file, pem, bundle), check_bundle(file, public, bundle[:-9])]
    refused.append(check_bundle(file, public, None))
    file.write_bytes(b"weightz")
    refused.append(check_bundle(file, public, bundle))
    assert {result.outcome for result in refused} == {Outcome.BLOCK}, refused
    rules = [result.findings[0]["rule"] for result in refused]
    assert rules == ["bad-signature", "bad-signature", "unsigned", "bad-signature"]


def test_a_bundle_without_the_package_is_an_error_that_names_it(tmp_path):
    (tmp_path / "model.skops").write_bytes(CONTENT)
    scripts = shutil.copytree(bundled_scripts(), tmp_path / "scripts")
    # Scripts look beside themselves first.
    (scripts / "model_signing.py").write_text("raise ImportError('as if it were not there')")
    result = check_bundle(tmp_path / "model.skops", "key", "{}", scripts)
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert "secmon-dagster[signing]" in result.stdout


def test_an_operator_demands_signatures_of_every_model(database: Database, tmp_path: Path):
    config = {"public_keys": TRUSTED, "signatures": {hashlib.sha256(CONTENT).hexdigest(): SIGNED}}
    with database.admin() as connection:
        connection.execute("SET search_path = secmon")
        set_config(connection, "scripts_by_type", '{"model": ["signature_check.py"]}', "olga")
        set_config(connection, "script_config", json.dumps(config), "olga")
    keeper = Gatekeeper()
    for content, outcome in ((CONTENT, Outcome.ALLOW), (b"unsigned", Outcome.BLOCK)):
        file = tmp_path / content.decode()
        file.write_bytes(content)
        artifact = keeper.register(file, "model", "model", "ann")
        assert keeper.check(artifact.id).result.outcome is outcome
