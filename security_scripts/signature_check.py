#!/usr/bin/env python3
"""Security check: was the artifact signed by somebody we trust?

    signature_check.py --artifact-id ID --name NAME --sha256 HEX --config JSON

``--config`` holds ``public_keys`` (Ed25519 keys, 32 bytes in base64) and ``signature``: a detached
signature in base64 over the manifest line ``secmon-artifact-v1 <sha256> <size> <name>``. Without a
signature, or with one by another key, it blocks. Needs the package ``cryptography``.

Or ``--config`` holds ``model_signing``: an object with ``public_key`` (an elliptic-curve key, PEM)
and ``bundles`` (SHA-256 of the file to the bundle that ``model_signing sign key`` wrote for it).
Needs the package ``model-signing``; nothing is asked over the network.

Prints one JSON object; exit code 0 allow, 2 block, 255 script error.
"""

import base64
import binascii
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_arguments import Check
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def manifest(sha256: str, size: int | None, name: str) -> bytes:
    """The line that is signed."""
    return f"secmon-artifact-v1 {sha256} {size} {name}".encode()


def main(arguments: list[str]) -> int:
    """Run the check; returns the exit code."""
    check = Check.parse(arguments, needs=("sha256", "size"))
    if "model_signing" in check.config:
        return verify_bundle(check)
    keys = check.config.get("public_keys")
    if not isinstance(keys, list) or not keys:
        return check.fail("--config holds no public_keys")
    try:
        trusted = [Ed25519PublicKey.from_public_bytes(base64.b64decode(key)) for key in keys]
    except (ValueError, TypeError) as broken:
        return check.fail(f"a public key can't be read: {broken}")
    signatures = check.config.get("signatures", {})
    given = check.config.get("signature") or signatures.get(check.sha256)
    if not isinstance(given, str):
        return refuse(check, "unsigned", "the artifact has no signature")
    try:
        signature = base64.b64decode(given, validate=True)
    except binascii.Error:
        return refuse(check, "bad-signature", "the signature is not base64")
    line = manifest(str(check.sha256), check.size, check.name)
    for key in trusted:
        try:
            key.verify(signature, line)
        except InvalidSignature:
            continue
        return check.finish([], "allow")
    return refuse(check, "bad-signature", "no trusted key made this signature")


def verify_bundle(check: Check) -> int:
    """Have the package ``model-signing`` compare the file with its signed manifest."""
    told = check.config["model_signing"]
    told = told if isinstance(told, dict) else {}
    key, bundles = told.get("public_key"), told.get("bundles")
    if not isinstance(key, str) or not isinstance(bundles, dict) or check.path is None:
        return check.fail("model_signing needs a public_key, bundles, and a file")
    try:
        from model_signing import verifying
    except ImportError as missing:
        return check.fail(f"the package model-signing can't be used "
                          f'(pip install "secmon-dagster[signing]"): {missing}')  # fmt: skip
    bundle = bundles.get(check.sha256)
    if bundle is None:
        return refuse(check, "unsigned", "the artifact has no bundle")
    with tempfile.TemporaryDirectory() as folder:
        key_file, bundle_file = Path(folder, "key.pem"), Path(folder, "bundle.json")
        key_file.write_text(key)
        bundle_file.write_text(bundle if isinstance(bundle, str) else json.dumps(bundle))
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key_file)
        except ValueError as broken:
            return check.fail(f"the public key can't be read: {broken}")
        try:
            verifier.verify(Path(check.path), bundle_file)
        except Exception as refused:  # whatever it is that a bundle provokes, it proves nothing
            return refuse(check, "bad-signature", f"{type(refused).__name__}: {refused}"[:500])
    return check.finish([], "allow")


def refuse(check: Check, rule: str, message: str) -> int:
    """Block for one reason."""
    return check.finish([{"level": "block", "rule": rule, "message": message}], "block")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
