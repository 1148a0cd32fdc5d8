"""``run_boxed``: one program, or one function, in a box; for use outside Dagster."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from secmon_dagster.errors import EnforcementUnavailableError, InvalidInputError
from secmon_dagster.limits import entry
from secmon_dagster.limits.backends import Backend, Box
from secmon_dagster.limits.capabilities import BackendName, open_backend
from secmon_dagster.limits.declaration import DEFAULT_LIMITS, ResourceLimits
from secmon_dagster.limits.evidence import KillReason, cause, is_enforced, not_enforced
from secmon_dagster.limits.link import Link
from secmon_dagster.limits.network import Attempt
from secmon_dagster.limits.quantity import finite, refuse
from secmon_dagster.limits.violation import ResourceUsage, Violation
from secmon_dagster.limits.watched import CpuWindows, entry_plan
from secmon_dagster.limits.zygote import Exit

_CHUNK = 65_536
_KILL_AGAIN = 0.005
_GIVE_UP = 30.0
_CPU_WINDOW = 5.0
_LOOK_EVERY = 0.5
"""Seconds between looks for what the kernel limits but doesn't announce (refused forks)."""


@dataclass(frozen=True, slots=True)
class BoxedResult:
    """How it ended and what it wrote.

    ``exit_code`` or ``signal`` is set, never both. ``truncated`` says that output was dropped
    beyond the cap. ``violation`` is the limit that ended it; ``warnings`` those it passed that are
    only watched.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool
    violation: Violation | None
    usage: ResourceUsage
    enforcement: str
    warnings: tuple[Violation, ...] = ()

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.violation is None


def run_boxed(
    program: Sequence[str] | Callable[[], object],
    limits: ResourceLimits | None = None,
    *,
    network: bool | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: bytes | None = None,
    max_output: int = 1_000_000,
    grace: float = 2.0,
    backend: BackendName | Backend = "auto",
    require_hard_limits: bool = False,
    pass_fds: Sequence[int] = (),
) -> BoxedResult:
    """Run a program (an argument list, no shell) or a picklable function in a box, and wait.

    Args:
        limits: what isn't declared comes from :data:`DEFAULT_LIMITS`.
        network: overrides ``limits.allow_network``; without it there is no way out of the box.
        env: the program's environment, in full; ``None`` is this process's own.
        max_output: bytes of stdout, and of stderr, that are kept; the rest is read and dropped.
        grace: seconds between asking it to stop at its time limit and ending it.
        pass_fds: descriptors the program may use, on their numbers.

    Raises:
        InvalidInputError: there is no such program, or the function can't be pickled.
        EnforcementUnavailableError: a limit, or the denial of the network, can't be had here.
    """
    declared = (limits or ResourceLimits()).merge(DEFAULT_LIMITS)
    if network is not None:
        declared = replace(declared, allow_network=network)
    if not 0 <= finite("max_output", max_output, "0 or more bytes") < 2**40:
        raise refuse("max_output", max_output, "0 or more bytes")
    if isinstance(backend, str):
        made = open_backend(backend, require_hard_limits=require_hard_limits)
        try:
            return _Run(made, declared, max_output, grace).run(program, env, cwd, stdin, pass_fds)
        finally:
            made.close()
    return _Run(backend, declared, max_output, grace).run(program, env, cwd, stdin, pass_fds)


@dataclass
class _Stream:
    """One output pipe, read to its end but kept to a cap."""

    descriptor: int
    cap: int
    kept: bytearray = field(default_factory=bytearray)
    truncated: bool = False

    def read(self) -> bool:
        """Read what is there; whether more may come."""
        try:
            data = os.read(self.descriptor, _CHUNK)
        except BlockingIOError:
            return False
        room = self.cap - len(self.kept)
        self.kept += data[:room]
        self.truncated |= len(data) > room
        return bool(data)


class _Run:
    """One call of :func:`run_boxed`."""

    def __init__(
        self, backend: Backend, limits: ResourceLimits, max_output: int, grace: float
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._max_output = max_output
        self._grace = grace
        self._reason: KillReason | None = None
        self._observed: float | None = None
        self._detail: str | None = None
        self._refusal: str | None = None
        self._look_again: float | None = None
        self._attempts = 0
        self._warnings: dict[KillReason, Violation] = {}
        self._kill_at: float | None = None

    def run(
        self,
        program: Sequence[str] | Callable[[], object],
        env: Mapping[str, str] | None,
        cwd: str | Path | None,
        stdin: bytes | None,
        pass_fds: Sequence[int],
    ) -> BoxedResult:
        box = self._backend.create(f"run-{os.getpid()}-{time.monotonic_ns()}", self._limits)
        ours, theirs = socket.socketpair()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(theirs)
                source: Any = subprocess.DEVNULL
                if stdin is not None:
                    source = stack.enter_context(tempfile.TemporaryFile())
                    source.write(stdin)
                    source.seek(0)
                plan = {**entry_plan(box, self._limits), "link": theirs.fileno()}
                descriptors = [theirs.fileno(), *pass_fds]
                argv: list[str] = []
                if callable(program):
                    function = stack.enter_context(tempfile.TemporaryFile())
                    function.write(_pickled(program))
                    function.flush()
                    plan |= {"callable": function.fileno(), "sys_path": sys.path}
                    descriptors.append(function.fileno())
                else:
                    argv = [os.fspath(part) for part in program]
                    if not argv:
                        raise InvalidInputError.of("program", program, "one argument or more")
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", entry.__file__, json.dumps(plan), *argv],
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            return self._watch(process, box, ours)
        finally:
            ours.close()
            box.destroy()

    def _watch(
        self, process: subprocess.Popen[bytes], box: Box, channel: socket.socket
    ) -> BoxedResult:
        if process.stdout is None or process.stderr is None:
            raise InvalidInputError("the program's output was not captured")
        started = time.monotonic()
        box.adopt(process.pid)
        streams = [
            _Stream(pipe.fileno(), self._max_output) for pipe in (process.stdout, process.stderr)
        ]
        with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
            for stream in streams:
                os.set_blocking(stream.descriptor, False)
                selector.register(
                    stream.descriptor, selectors.EVENT_READ, partial(_read_on, stream, selector)
                )
            link = Link(
                channel,
                selector,
                heard=_ignore,
                refused=self._not_entered,
                attempted=(
                    None
                    if self._limits.allow_network
                    else lambda attempt: self._attempted(attempt, process.pid, box)
                ),
                corrupted=_ignore,
            )
            for alarm in box.alarms():
                selector.register(alarm, selectors.EVENT_READ, lambda: self._look(box))
            try:
                report = self._until_exit(process, box, selector, started)
            except BaseException:
                # Such as Ctrl-C: it must not go on with nobody to hold it to its limits.
                _empty(box)
                process.wait()
                raise
            ended = time.monotonic()
            _empty(box)
            link.drain()
            link.close()
            for stream in streams:
                while stream.read():
                    continue
        return self._result(box, report, streams, ended - started)

    def _until_exit(
        self,
        process: subprocess.Popen[bytes],
        box: Box,
        selector: selectors.BaseSelector,
        started: float,
    ) -> Exit:
        limit = (self._limits.max_execution_time_ms or 0) / 1000
        deadline: float | None = started + limit
        windows = CpuWindows(self._limits.max_cpu_percent)
        next_window = started + _CPU_WINDOW
        look_every = self._backend.look_every or _LOOK_EVERY
        next_look = started
        pidfd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
        if pidfd is not None:
            selector.register(pidfd, selectors.EVENT_READ, lambda: None)
        try:
            while True:
                now = time.monotonic()
                due = [next_window, next_look, deadline, self._kill_at]
                if pidfd is None:
                    due.append(now + 0.01)
                soonest = min(moment for moment in due if moment is not None)
                for key, _ in selector.select(max(0.0, soonest - now)):
                    key.data()
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    # Popen must not wait for it again.
                    process.returncode = 0
                    return Exit(
                        pid,
                        status,
                        usage.ru_utime + usage.ru_stime,
                        usage.ru_inblock * 512,
                        usage.ru_oublock * 512,
                    )
                now = time.monotonic()
                if now >= next_look or self._look_again is not None:
                    next_look = now + look_every
                    self._look(box)
                    if self._look_again is not None:
                        next_look = now + self._look_again
                if deadline is not None and now >= deadline:
                    deadline = None
                    self._passed(KillReason.TIME, now - started, process.pid, box)
                if now >= next_window:
                    next_window = now + _CPU_WINDOW
                    used = windows.sustained(now, box.read())
                    if used is not None:
                        self._passed(KillReason.CPU, used, process.pid, box)
                if self._kill_at is not None and now >= self._kill_at:
                    self._kill_at = now + _KILL_AGAIN
                    box.kill()
        finally:
            if pidfd is not None:
                selector.unregister(pidfd)
                os.close(pidfd)

    def _look(self, box: Box) -> None:
        reading = box.read()
        self._look_again = reading.look_again
        if reading.out_of_memory:
            self._end(KillReason.MEMORY, reading.memory_bytes, box)
        elif reading.forks_refused:
            self._end(KillReason.PROCESSES, reading.processes, box)

    def _passed(self, reason: KillReason, observed: float, pid: int, box: Box) -> None:
        if not is_enforced(self._limits, reason):
            self._warnings.setdefault(
                reason,
                not_enforced(
                    self._limits,
                    reason,
                    enforcement=self._backend.name,
                    observed=observed,
                    detail=self._detail,
                ),
            )
        elif reason is KillReason.NETWORK:
            self._end(reason, observed, box)
        elif self._reason is None:
            self._reason, self._observed = reason, observed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            self._kill_at = time.monotonic() + self._grace

    def _end(self, reason: KillReason, observed: float | None, box: Box) -> None:
        if self._reason is None:
            self._reason, self._observed = reason, observed
        self._kill_at = time.monotonic() + _KILL_AGAIN
        box.kill()

    def _attempted(self, attempt: Attempt, pid: int, box: Box) -> None:
        self._attempts += 1
        self._detail = self._detail or str(attempt)
        self._passed(KillReason.NETWORK, self._attempts, pid, box)

    def _not_entered(self, reason: str) -> None:
        self._refusal = reason

    def _result(self, box: Box, report: Exit, streams: list[_Stream], wall: float) -> BoxedResult:
        if self._refusal is not None and self._reason is None:
            if "No such file" in self._refusal or "Permission denied: '" in self._refusal:
                raise InvalidInputError(f"the program can't be started: {self._refusal}")
            raise EnforcementUnavailableError(
                f"the box could not be entered: {self._refusal}",
                hint="`secmon doctor` shows what this machine can enforce.",
            )
        evidence, last = box.evidence(), box.read()
        reason = self._reason
        if reason is None and evidence.forks_refused:
            reason = KillReason.PROCESSES
        return BoxedResult(
            exit_code=report.code,
            signal=report.signal,
            stdout=bytes(streams[0].kept),
            stderr=bytes(streams[1].kept),
            truncated=any(stream.truncated for stream in streams),
            violation=cause(
                self._limits,
                evidence,
                reason,
                enforcement=self._backend.name,
                observed=self._observed,
                detail=self._detail,
            ),
            usage=ResourceUsage(
                wall_seconds=wall,
                cpu_seconds=report.cpu_seconds if last.cpu_seconds is None else last.cpu_seconds,
                peak_memory_bytes=evidence.peak_memory_bytes,
                throttled_seconds=last.throttled_seconds,
                read_bytes=report.read_bytes,
                written_bytes=report.written_bytes,
            ),
            enforcement=self._backend.name,
            warnings=tuple(self._warnings.values()),
        )


def _empty(box: Box) -> None:
    until = time.monotonic() + _GIVE_UP
    while not box.kill() and time.monotonic() < until:
        time.sleep(_KILL_AGAIN)


def _read_on(stream: _Stream, selector: selectors.BaseSelector) -> None:
    if not stream.read():
        selector.unregister(stream.descriptor)


def _ignore(_: object) -> None:
    """A program in a box has nothing to say over its link once it runs."""


def _pickled(function: Callable[[], object]) -> bytes:
    if getattr(function, "__module__", None) == "__main__":
        raise InvalidInputError(
            "the function can't be sent into a box: it belongs to the program itself (__main__)",
            hint="Move it to a module that can be imported.",
        )
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as unpicklable:
        raise InvalidInputError(
            f"the function can't be sent into a box: {unpicklable}",
            hint="Use a function defined at the top of a module, or functools.partial of one.",
        ) from unpicklable
