"""A warm, single-threaded process whose forks are the boxed processes.

The parent (which has threads and must not fork) talks to it over a socket: newline-separated JSON,
with descriptors passed alongside. The zygote forks, lets the child enter its box, reports exits
with their status, and, should the parent die, ends everything and removes the boxes' folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secmon_dagster.errors import LimitsError

PATIENCE = 10.0
"""Seconds in which a warm zygote must have forked, or told of an exit; it does nothing else."""

_LAST_ACTS = 30.0
_LOOK_AGAIN = 0.005


class ZygoteLost(LimitsError):  # noqa: N818 - what happened, read as a participle
    """The zygote is gone or does not answer."""


class ForkRefused(LimitsError):  # noqa: N818 - what happened, read as a participle
    """The zygote is there, but the system lets it start nothing more."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, with what ``wait4`` counted for it and its waited-for children.

    ``status`` is ``None`` if whoever waited for it is gone and took the answer along.
    """

    pid: int
    status: int | None
    cpu_seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def code(self) -> int | None:
        if self.status is None or not os.WIFEXITED(self.status):
            return None
        return os.WEXITSTATUS(self.status)

    @property
    def signal(self) -> int | None:
        if self.status is None or not os.WIFSIGNALED(self.status):
            return None
        return os.WTERMSIG(self.status)


class Control:
    """JSON lines and descriptors over a socket, whole messages only."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._text = bytearray()
        self._fds: deque[int] = deque()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        data = json.dumps({**message, "fds": len(fds)}).encode() + b"\n"
        if fds:
            sent = socket.send_fds(self.socket, [data], list(fds))
            data = data[sent:]
        if data:
            self.socket.sendall(data)

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Messages that are there; waits for the first bytes.

        Raises:
            EOFError: the other end is gone.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 64)
        except (ConnectionError, BlockingIOError) as broken:
            if isinstance(broken, BlockingIOError):
                return []
            raise EOFError from broken
        for descriptor in fds:
            os.set_inheritable(descriptor, False)
        self._fds.extend(fds)
        if not data:
            raise EOFError
        self._text += data
        *lines, rest = bytes(self._text).split(b"\n")
        self._text = bytearray(rest)
        messages = []
        for line in lines:
            message = json.loads(line)
            messages.append((message, [self._fds.popleft() for _ in range(message["fds"])]))
        return messages


class Zygote:
    """The parent's side. ``ready`` turns true in :meth:`exits`, once the zygote is warm."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self._control = Control(link)
        self.pid = pid
        self.ready = False
        self._exits: deque[Exit] = deque()
        self._serial = 0

    def fileno(self) -> int:
        return self._control.socket.fileno()

    def start(self, plan: dict[str, Any], channel: int, spec: int) -> tuple[int, int | None]:
        """Fork a child of a warm zygote; returns its pid and, on Linux, a pidfd.

        Raises:
            ZygoteLost: it is gone.
            ForkRefused: there is no room for another process.
        """
        self._serial += 1
        try:
            self._control.send({"op": "start", "id": self._serial, "plan": plan}, [channel, spec])
        except OSError as broken:
            raise ZygoteLost("the process that starts steps is gone") from broken
        message = self._expect("started")
        if error := message.get("error"):
            raise ForkRefused(f"no process can be started: {error}")
        fds: list[int] = message["descriptors"]
        return message["pid"], fds[0] if fds else None

    def exits(self) -> list[Exit]:
        """Children that have ended since the last call.

        Raises:
            ZygoteLost: it is gone, or couldn't get warm; exits that came in before are still
                returned first.
        """
        while _readable(self._control.socket, 0):
            try:
                self._take()
            except ZygoteLost:
                if self._exits:
                    break
                raise
        found = list(self._exits)
        self._exits.clear()
        return found

    def close(self) -> None:
        """Let it go: it ends its children and itself. One that doesn't in time is ended."""
        self._control.socket.close()
        # While it imports it has no children and doesn't listen.
        until = time.monotonic() + (_LAST_ACTS if self.ready else 0.0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() >= until:
                    self.kill()
                    return
                time.sleep(_LOOK_AGAIN)

    def kill(self) -> None:
        """End it and leave its children alone; they come to the nearest subreaper above it."""
        self._control.socket.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _expect(self, operation: str) -> dict[str, Any]:
        while True:
            if not _readable(self._control.socket, PATIENCE):
                raise ZygoteLost(f"the process that starts steps is silent for {PATIENCE:g} s")
            for message in self._take():
                if message["op"] == operation:
                    return message

    def _take(self) -> list[dict[str, Any]]:
        try:
            messages = self._control.receive()
        except (EOFError, OSError) as gone:
            raise ZygoteLost("the process that starts steps is gone") from gone
        answers = []
        for message, fds in messages:
            if message["op"] == "exited":
                self._exits.append(Exit(**message["exit"]))
            elif message["op"] == "ready":
                if error := message.get("error"):
                    raise ZygoteLost(error)
                self.ready = True
            else:
                answers.append({**message, "descriptors": fds})
        return answers


def _readable(link: socket.socket, patience: float) -> bool:
    # Not select(): a parent with many boxes has descriptors above its limit of 1024.
    watch = select.poll()
    watch.register(link, select.POLLIN)
    return bool(watch.poll(patience * 1000))
