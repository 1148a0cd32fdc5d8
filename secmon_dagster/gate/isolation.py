"""How well a script is shut in, from weakest to strongest.

===========  ===============================================================================
none         not run at all, or not by the gate
rlimits      bounded memory, CPU, files; sees the file system and the network
landlock     also: reads nothing but its interpreter, itself and the artifact; no sockets,
             no ptrace, no new privileges (Landlock + seccomp)
userns       also: network, IPC and host name of its own (user namespace)
bubblewrap   also: mounts and process ids of its own
===========  ===============================================================================
"""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """The rungs of the ladder; they compare by strength, not by spelling."""

    NONE = "none"
    RLIMITS = "rlimits"
    LANDLOCK = "landlock"
    USERNS = "userns"
    BUBBLEWRAP = "bubblewrap"

    def __lt__(self, other: str) -> bool:
        return strength(self) < strength(other)

    def __gt__(self, other: str) -> bool:
        return strength(self) > strength(other)

    def __le__(self, other: str) -> bool:
        return strength(self) <= strength(other)

    def __ge__(self, other: str) -> bool:
        return strength(self) >= strength(other)


_ORDER = {str(level): rung for rung, level in enumerate(Isolation)}


def strength(level: str) -> int:
    """The rung's height; an unknown name is no isolation."""
    return _ORDER.get(str(level), 0)
