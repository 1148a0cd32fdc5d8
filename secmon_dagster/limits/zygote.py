"""A warm, single-threaded process whose forks are the boxed processes.

The parent (which has threads and must not fork) talks to it over a socket: newline-separated JSON,
with descriptors passed alongside. The zygote forks, lets the child enter its box, reports exits
with their status, and, should the parent die, ends everything and removes the boxes' folders.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from secmon_dagster.errors import LimitsError
from secmon_dagster.limits import entry
from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.proc import children_of, descendants_of

FDS_PER_START = 2
Handler = Callable[[bytes, socket.socket], int]
"""Runs in the child: takes the specification and the channel, returns an exit code."""

_PATIENCE = 10.0
"""Seconds in which a warm zygote must have forked; it has nothing else to do."""

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
            if not _readable(self._control.socket, _PATIENCE):
                raise ZygoteLost(f"the process that starts steps is silent for {_PATIENCE:g} s")
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


class _Server:
    """The zygote's side."""

    def __init__(
        self, link: socket.socket, handler: Handler, folders: Sequence[Path], *, guard: bool
    ) -> None:
        self._control = Control(link)
        self._handler = handler
        self._folders = folders
        self._guard = guard
        self._children: set[int] = set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._control.socket.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if self._control.socket.fileno() in ready:
                try:
                    messages = self._control.receive()
                except EOFError:
                    self._end_everything()
                    return
                for message, fds in messages:
                    self._start(message, *fds)

    def _start(self, message: dict[str, Any], channel: int, spec: int) -> None:
        try:
            pid = os.fork()
        except OSError as refused:
            os.close(channel)
            os.close(spec)
            self._control.send({"op": "started", "id": message["id"], "error": str(refused)})
            return
        if pid == 0:
            self._child(message["plan"], channel, spec)
        os.close(channel)
        os.close(spec)
        self._children.add(pid)
        pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        self._control.send(
            {"op": "started", "id": message["id"], "pid": pid}, [] if pidfd is None else [pidfd]
        )
        if pidfd is not None:
            os.close(pidfd)

    def _child(self, plan: dict[str, Any], channel: int, spec: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            try:
                entry.enter(plan, channel)
            except OSError as reason:
                entry.refuse(channel, reason)
            with os.fdopen(spec, "rb") as source:
                source.seek(0)
                document = source.read()
            code = self._handler(document, socket.socket(fileno=channel))
        except SystemExit as leaving:
            # Foreign code may leave as it would leave a program of its own.
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            # The last resort of a child: nothing may return into the zygote's loop.
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code & 0xFF)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._children:
                continue
            self._children.discard(pid)
            report = Exit(
                pid=pid,
                status=status,
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                read_bytes=usage.ru_inblock * 512,
                written_bytes=usage.ru_oublock * 512,
            )
            if self._guard:
                self._end_orphans()
            with contextlib.suppress(OSError):
                self._control.send(
                    {
                        "op": "exited",
                        "exit": {name: getattr(report, name) for name in Exit.__slots__},
                    }
                )

    def _end_orphans(self) -> None:
        """Children that are not ours by birth: their step, a subreaper while it lived, is over."""
        while orphans := set(children_of(os.getpid())) - self._children:
            _kill_trees(orphans)
            for pid in orphans:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _end_everything(self) -> None:
        signal.set_wakeup_fd(-1)
        for folder in self._folders:
            groups.empty_and_remove(folder)
        while remaining := set(children_of(os.getpid())):
            _kill_trees(remaining)
            for pid in remaining:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def serve(
    link: socket.socket, handler: Handler, *, folders: Sequence[Path] = (), guard: bool = False
) -> None:
    """Be a zygote until the other end of ``link`` closes.

    Args:
        handler: runs in each child.
        folders: control groups to empty and remove if the parent dies.
        guard: no groups hold the children's descendants, so hunt orphans here.
    """
    entry.become_subreaper()
    gc.collect()
    # A collection in a child would touch, and so copy, every page of the parent's objects.
    gc.freeze()
    server = _Server(link, handler, folders, guard=guard)
    server._control.send({"op": "ready"})
    server.run()


def _readable(link: socket.socket, patience: float) -> bool:
    # Not select(): a parent with many boxes has descriptors above its limit of 1024.
    watch = select.poll()
    watch.register(link, select.POLLIN)
    return bool(watch.poll(patience * 1000))


def _kill_trees(roots: set[int]) -> None:
    stopped: set[int] = set()
    while fresh := set(descendants_of(roots)) - stopped:
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
