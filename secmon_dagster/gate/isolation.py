"""How well a script is shut in, from weakest to strongest.

===========  ===============================================================================
none         not run at all, or not by the gate
rlimits      bounded memory, CPU, files and processes; sees the file system and the network
landlock     also: reads nothing but its interpreter, itself and the artifact; no sockets,
             no ptrace, no new privileges (Landlock + seccomp)
userns       also: network, IPC and host name of its own (user namespace)
bubblewrap   also: mounts and process ids of its own
===========  ===============================================================================
"""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """The rungs of the ladder."""

    NONE = "none"
    RLIMITS = "rlimits"
    LANDLOCK = "landlock"
    USERNS = "userns"
    BUBBLEWRAP = "bubblewrap"


_ORDER = tuple(Isolation)


def strength(level: str) -> int:
    """The rung's height; an unknown name is no isolation."""
    return _ORDER.index(Isolation(level)) if level in _ORDER else 0
