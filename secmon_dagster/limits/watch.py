"""A supervisor in a thread of its own.

Whoever stores events may wait for a database; a deadline or an allocation must not. So the
supervisor runs beside it, and what happened comes over a queue.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import KillReason
from secmon_dagster.limits.supervisor import Supervisor
from secmon_dagster.limits.watched import Notice


@dataclass(frozen=True, slots=True)
class Broken:
    """The supervisor itself failed; everything it ran has been ended."""

    error: BaseException


class Watch:
    """Runs a supervisor until :meth:`close`; use as a context manager."""

    def __init__(self, new_supervisor: Callable[[], Supervisor]) -> None:
        self._notices: deque[Notice | Broken] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._supervisor = new_supervisor()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="secmon-limits", daemon=True)
        self._previous_wakeup: int | None = None

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            # A signal to the run, such as its cancellation, ends a wait for notices at once.
            self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._supervisor.call(lambda: None)
        self._thread.join()
        self._supervisor.close()
        if self._previous_wakeup is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._read)
        os.close(self._write)

    def warm(self) -> None:
        """Start the zygote now; returns at once."""
        self._supervisor.call(self._supervisor.warm)

    def start(self, key: str, spec: bytes, limits: ResourceLimits) -> None:
        """Start a process; ``Started`` or ``Refused`` follows."""
        self._supervisor.call(lambda: self._supervisor.start(key, spec, limits))

    def send(self, key: str, data: bytes) -> None:
        self._supervisor.call(lambda: self._supervisor.send(key, data))

    def consumed(self, key: str, size: int) -> None:
        self._supervisor.call(lambda: self._supervisor.consumed(key, size))

    def end(self, key: str, reason: KillReason, detail: str | None = None) -> None:
        self._supervisor.call(lambda: self._supervisor.end(key, reason, detail))

    def take(self, timeout: float) -> list[Notice | Broken]:
        """What happened since the last call; waits if nothing has. A signal ends the wait too."""
        if not self._notices:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            poll.poll(max(0.0, timeout) * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 65536)
        taken = []
        while self._notices:
            taken.append(self._notices.popleft())
        return taken

    def _tell(self, notices: list[Notice] | list[Broken]) -> None:
        if notices:
            self._notices.extend(notices)
            with contextlib.suppress(BlockingIOError):
                os.write(self._write, b"!")

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._tell(self._supervisor.run_once(None))
        except BaseException as error:
            # The thread has nobody to raise to: its owner finds this among the notices.
            self._tell([Broken(error)])
        finally:
            self._supervisor.end_all()
