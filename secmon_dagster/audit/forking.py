"""What a forked child must forget: threads, and connections that are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class _Forgetful(Protocol):
    def _forget(self) -> None:
        """Be as a process that has not used this yet."""
        ...


def forget_after_fork(used: _Forgetful) -> None:
    """Have a child forget ``used`` before its first line runs: a check at first use would let two
    threads of the child meet, one in the middle of it and one already past."""
    _used.add(used)


def keep(*inherited: object) -> None:
    """Keep connections of the parent, so that their destructors don't speak on its sockets."""
    _inherited.extend(one for one in inherited if one is not None)


_used: weakref.WeakSet[_Forgetful] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for used in _used:
        used._forget()


os.register_at_fork(after_in_child=_after_fork)
