#!/usr/bin/env python3
"""Security check: was the artifact signed by somebody we trust?

    signature_check.py --artifact-id ID --name NAME --sha256 HEX --config JSON

``--config`` holds ``public_keys`` (Ed25519 keys, 32 bytes in base64) and ``signature``: a detached
signature in base64 over the manifest line ``secmon-artifact-v1 <sha256> <size> <name>``. Without a
signature, or with one by another key, it blocks. Needs the package ``cryptography``. Prints one
JSON object; exit code 0 allow, 2 block, 255 script error.
"""

import base64
import binascii
import sys
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


def refuse(check: Check, rule: str, message: str) -> int:
    """Block for one reason."""
    return check.finish([{"level": "block", "rule": rule, "message": message}], "block")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
