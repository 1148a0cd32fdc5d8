"""Which rungs of the ladder this machine has: each is tried once, with a program that does nothing.

The outcome depends on the kernel, on container settings and on the distribution's policy for
unprivileged user namespaces, so it is tried and not looked up.
"""

from __future__ import annotations

import logging
import tempfile
from functools import cache
from pathlib import Path

from secmon_dagster.gate.isolation import Isolation
from secmon_dagster.gate.sandbox.launcher import Confinement, run_confined

log = logging.getLogger(__name__)

_LOSES = {
    Isolation.BUBBLEWRAP: "scripts see the process ids and mounts of this machine's namespaces",
    Isolation.USERNS: "scripts share the network namespace (sockets are still refused)",
    Isolation.LANDLOCK: "scripts can read every file this user can, and open connections",
}
_TRIES = 3


@cache
def available(level: Isolation) -> bool:
    """Whether a program runs under ``level`` here."""
    if level in (Isolation.NONE, Isolation.RLIMITS):
        return True
    reason = ""
    # The answer holds for the life of this process, and a busy system may refuse a namespace once.
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory(prefix="secmon-probe-") as folder:
            try:
                ended = run_confined(["/bin/true"], Confinement(level, Path(folder), timeout=10.0))
            except OSError as refused:
                log.info("isolation %s is not available: %s", level, refused)
                return False
        if ended.exit_code == 0:
            return True
        reason = ended.stderr.decode("utf-8", "replace").strip()
    log.info("isolation %s is not available: %s; %s", level, reason, _LOSES[level])
    return False


@cache
def strongest_isolation() -> Isolation:
    """The highest rung that works here."""
    return next(level for level in reversed(Isolation) if available(level))
