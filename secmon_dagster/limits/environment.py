"""Secrets in the environment that a fork inherits, and how it forgets them.

A fork keeps its parent's variables, and the kernel shows the block they came in as
``/proc/PID/environ`` whatever a program deletes from its own table. Both are cleared here.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

_SECRET_NAME = re.compile(
    r"PASSW|PGPASS|SECRET|TOKEN|CREDENTIAL|DSN|WEBHOOK|ALERT_URLS|(DATABASE|DB)_URL"
    r"|(API|ACCESS|PRIVATE|SIGNING|ENCRYPTION)_?KEY",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")

_ENV_START = 47
"""Place of ``env_start`` in ``/proc/PID/stat``, counted from the process's state; see proc(5)."""


def secret_names(environment: Mapping[str, str]) -> set[str]:
    """Names of variables that hold a secret: by their name, or by a password in a URL."""
    return {
        name
        for name, value in environment.items()
        if _SECRET_NAME.search(name) or _PASSWORD_IN_URL.search(value)
    }


def forget(names: Collection[str]) -> None:
    """Remove variables from this process's environment, and their values from its first block."""
    for name in names:
        os.environ.pop(name, None)
    try:
        values = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        # Without /proc nobody can read the block either.
        return
    start, end = int(values[_ENV_START]), int(values[_ENV_START + 1])
    place = start
    wanted = {name.encode() for name in names}
    for line in ctypes.string_at(start, end - start).split(b"\0"):
        key, separator, value = line.partition(b"=")
        if separator and key in wanted:
            ctypes.memset(place + len(key) + 1, 0, len(value))
        place += len(line) + 1
