"""The zygote of a supervisor: warmed up, and replaced when it is lost, without anybody waiting."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Any

from secmon_dagster.limits.zygote import Exit, Zygote, ZygoteLost

_PATIENCE = 300.0
"""Seconds in which a zygote must have imported what its forks need."""


class WarmZygote:
    """Registers itself with a selector, whose ready entries' ``data`` are called.

    Args:
        new_zygote: starts one and returns at once; it says itself when it is warm.
        is_warm: called when one can be forked from.
        failed: called with the reason if one didn't get warm; it is gone then.
        lost: called when one that was warm is gone; its children may go on.
        exited: called for each child that ended.
    """

    def __init__(
        self,
        new_zygote: Callable[[], Zygote],
        selector: selectors.BaseSelector,
        *,
        is_warm: Callable[[], None],
        failed: Callable[[ZygoteLost], None],
        lost: Callable[[], None],
        exited: Callable[[Exit], None],
    ) -> None:
        self._new_zygote = new_zygote
        self._selector = selector
        self._is_warm, self._failed = is_warm, failed
        self._lost, self._exited = lost, exited
        self._zygote: Zygote | None = None
        self.warm_until: float | None = None
        """Moment (monotonic) at which one that isn't warm yet is given up; see :meth:`tick`."""

    @property
    def pid(self) -> int | None:
        return None if self._zygote is None else self._zygote.pid

    @property
    def is_ready(self) -> bool:
        return self._zygote is not None and self._zygote.ready

    def warm(self) -> None:
        """Start one if there is none."""
        if self._zygote is not None:
            return
        try:
            self._zygote = self._new_zygote()
        except OSError as refused:
            self._failed(ZygoteLost(f"the process that starts steps can't be started: {refused}"))
            return
        self.warm_until = time.monotonic() + _PATIENCE
        self._selector.register(self._zygote, selectors.EVENT_READ, self._collect)

    def fork(self, plan: dict[str, Any], channel: int, spec: int) -> tuple[int, int | None]:
        """Fork a child off a warm zygote, see :meth:`Zygote.start`.

        Raises:
            ZygoteLost: there is none, or it was lost over this; there may be another one soon.
            ForkRefused: the system has no room for another process.
        """
        if self._zygote is None:
            raise ZygoteLost("no process that starts steps")
        try:
            return self._zygote.start(plan, channel, spec)
        except ZygoteLost:
            self.give_up()
            raise

    def tick(self, now: float) -> None:
        """Give up one that doesn't get warm."""
        if self.warm_until is not None and now >= self.warm_until:
            self._kill()
            silent = f"the process that starts steps is not ready after {_PATIENCE:g} s"
            self._failed(ZygoteLost(silent))

    def give_up(self) -> None:
        """Lose one that doesn't do its work."""
        self._kill()
        self._lost()

    def close(self) -> None:
        """Let it go: it ends its children and itself."""
        if (zygote := self._forgotten()) is not None:
            zygote.close()

    def _kill(self) -> None:
        if (zygote := self._forgotten()) is not None:
            zygote.kill()

    def _forgotten(self) -> Zygote | None:
        zygote, self._zygote, self.warm_until = self._zygote, None, None
        if zygote is not None:
            self._selector.unregister(zygote)
        return zygote

    def _collect(self) -> None:
        zygote = self._zygote
        if zygote is None:
            return
        try:
            exits = zygote.exits()
        except ZygoteLost as gone:
            was_ready = zygote.ready
            self._kill()
            if was_ready:
                self._lost()
            else:
                self._failed(gone)
            return
        for report in exits:
            self._exited(report)
        if zygote.ready and self.warm_until is not None:
            self.warm_until = None
            self._is_warm()
