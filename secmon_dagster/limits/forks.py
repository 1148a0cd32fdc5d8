"""The zygote's side: forks children ahead of their orders, reports exits, cleans up at the end.

A fork costs milliseconds, and as many again go by while the child copies the pages it writes to. So
one child is forked before it is asked for. It rehearses and waits, outside of any box, and enters
one only with its order, from which on its limits count. If the zygote goes, it goes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from secmon_dagster.limits import entry
from secmon_dagster.limits.backends import groups
from secmon_dagster.limits.proc import children_of, descendants_of
from secmon_dagster.limits.zygote import Control, Exit

Handler = Callable[[bytes, socket.socket], int]
"""Runs in the child: takes the specification and the channel, returns an exit code."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A fork that waits for its order."""

    pid: int
    orders: Control


class _Server:
    def __init__(
        self,
        link: socket.socket,
        handler: Handler,
        folders: Sequence[Path],
        *,
        guard: bool,
        rehearse: Callable[[], object] | None,
    ) -> None:
        self._control = Control(link)
        self._handler = handler
        self._folders = folders
        self._guard = guard
        self._rehearse = rehearse
        self._children: set[int] = set()
        self._spare: _Child | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._fork_ahead()
        try:
            self._serve()
        except (EOFError, ConnectionError):
            self._end_everything()

    def _serve(self) -> NoReturn:
        """Raises EOFError or ConnectionError once the parent is gone."""
        while True:
            ready, _, _ = select.select([self._control.socket.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if self._control.socket.fileno() in ready:
                for message, fds in self._control.receive():
                    self._start(message, *fds)

    def _start(self, message: dict[str, Any], channel: int, spec: int) -> None:
        try:
            child = self._give_order(message["plan"], [channel, spec])
        except OSError as refused:
            self._control.send({"op": "started", "id": message["id"], "error": str(refused)})
            return
        finally:
            os.close(channel)
            os.close(spec)
        self._children.add(child.pid)
        pidfd = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
        self._control.send(
            {"op": "started", "id": message["id"], "pid": child.pid},
            [] if pidfd is None else [pidfd],
        )
        if pidfd is not None:
            os.close(pidfd)
        self._fork_ahead()

    def _give_order(self, plan: dict[str, Any], fds: list[int]) -> _Child:
        """Have the spare child, or a fresh one if it is gone, do what is asked."""
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(ConnectionError), spare.orders.socket:
                spare.orders.send({"plan": plan}, fds)
                return spare
        child = self._fork(ahead=False)
        with child.orders.socket:
            child.orders.send({"plan": plan}, fds)
        return child

    def _fork_ahead(self) -> None:
        # Without groups, what a process was before its order would be counted as its own.
        if not self._guard:
            # No room for another now; the next order will tell.
            with contextlib.suppress(OSError):
                self._spare = self._fork(ahead=True)

    def _fork(self, *, ahead: bool) -> _Child:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                ours.close()
                self._child(theirs, ahead=ahead)
        return _Child(pid, Control(ours))

    def _child(self, orders: socket.socket, *, ahead: bool) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            if ahead and self._rehearse is not None:
                self._rehearse()
            waiting = Control(orders)
            try:
                while not (messages := waiting.receive()):
                    continue
            except EOFError:
                os._exit(0)
            orders.close()
            [(message, (channel, spec))] = messages
            try:
                entry.enter(message["plan"], channel)
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
                if self._spare is not None and pid == self._spare.pid:
                    self._spare.orders.socket.close()
                    self._spare = None
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
    link: socket.socket,
    handler: Handler,
    *,
    folders: Sequence[Path] = (),
    guard: bool = False,
    rehearse: Callable[[], object] | None = None,
) -> None:
    """Be a zygote until the other end of ``link`` closes.

    Args:
        handler: runs in each child.
        folders: control groups to empty and remove if the parent dies.
        guard: no groups hold the children's descendants, so hunt orphans here.
        rehearse: called in a child that waits for its order, to be faster then.
    """
    entry.become_subreaper()
    gc.collect()
    # A collection in a child would touch, and so copy, every page of the parent's objects.
    gc.freeze()
    server = _Server(link, handler, folders, guard=guard, rehearse=rehearse)
    server._control.send({"op": "ready"})
    server.run()


def _kill_trees(roots: set[int]) -> None:
    stopped: set[int] = set()
    while fresh := set(descendants_of(roots)) - stopped:
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= fresh
    for pid in stopped:
        # Gone, or a setuid program that isn't ours to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
