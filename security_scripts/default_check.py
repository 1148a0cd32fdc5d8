#!/usr/bin/env python3
"""Security check: is the artifact's name one that should be let through?

    default_check.py --artifact-id ID --name NAME [--type TYPE]

Blocks names that call themselves malicious or hold control characters; warns of names longer than
255 characters. Prints one JSON object; exit code 0 allow, 1 warn, 2 block, 255 script error.
"""

import re
import sys
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_arguments import Check, run_unheard

MAX_NAME = 255
ANYWHERE = ("malware", "backdoor", "trojan", "ransomware", "keylogger", "rootkit", "spyware")
AS_WORD = ("virus", "viruses", "exploit", "exploits", "worm", "payload", "malicious", "botnet")


def rehearse() -> None:
    """For the process that checks are forked from: have prepared what Python prepares late."""
    run_unheard(main, "--size=100", "--config", "{}")


def main(arguments: list[str]) -> int:
    """Run the check; returns the exit code."""
    check = Check.parse(arguments)
    findings = []
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKC", check.name)
        if unicodedata.category(letter) != "Cf"
    )
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", plain).casefold()
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in check.name):
        findings.append(finding("block", "control-character", "the name holds control characters"))
    for word in ANYWHERE:
        if word in plain.casefold():
            findings.append(finding("block", "suspicious-name", f"the name contains '{word}'"))
    for word in AS_WORD:
        if re.search(rf"(?<![a-z]){word}(?![a-z])", words):
            findings.append(finding("block", "suspicious-name", f"the name contains '{word}'"))
    if len(check.name) > MAX_NAME:
        message = f"the name has {len(check.name)} characters, more than {MAX_NAME}"
        findings.append(finding("warn", "long-name", message))
    if not check.name.strip():
        findings.append(finding("block", "empty-name", "the artifact has no name"))
    levels = {found["level"] for found in findings}
    return check.finish(
        findings, "block" if "block" in levels else "warn" if "warn" in levels else "allow"
    )


def finding(level: str, rule: str, message: str) -> dict[str, str]:
    """One reason for the verdict."""
    return {"level": level, "rule": rule, "message": message}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
