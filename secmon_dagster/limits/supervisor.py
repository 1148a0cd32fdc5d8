"""One selector over all boxes: their channels, exits, out-of-memory alarms and deadlines."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from secmon_dagster.errors import SecmonError
from secmon_dagster.limits import entry
from secmon_dagster.limits.backends import Backend
from secmon_dagster.limits.declaration import DEFAULT_LIMITS, ResourceLimits
from secmon_dagster.limits.evidence import MB, KillReason, is_enforced, not_enforced
from secmon_dagster.limits.link import Link
from secmon_dagster.limits.network import Attempt
from secmon_dagster.limits.warm import WarmZygote
from secmon_dagster.limits.watched import (
    STRAIGHT_TO_KILL,
    CpuWindows,
    Decided,
    Frame,
    Notice,
    Order,
    Refused,
    Started,
    Warned,
    Watched,
    entry_plan,
    escalation,
    folder_name,
    never_started,
    outcome,
)
from secmon_dagster.limits.zygote import PATIENCE, Exit, Zygote, ZygoteLost

MONITOR_EVERY = 5.0
"""Seconds between looks for metrics and sustained CPU; memory and time don't wait for them."""

_KILL_AGAIN = 0.005
_GIVE_UP = 30.0


class Supervisor:
    """Starts processes in boxes and watches them. Not thread-safe except for :meth:`call`.

    Args:
        backend: where boxes come from; the caller closes it.
        new_zygote: starts a zygote; called again if one is lost.
        grace: seconds between asking a process to stop and ending it.
        monitor_every: window of CPU and metrics, seconds.
        last_word: sent to a process before it is asked to stop at a limit.
    """

    def __init__(
        self,
        backend: Backend,
        new_zygote: Callable[[], Zygote],
        *,
        grace: float = 5.0,
        monitor_every: float = MONITOR_EVERY,
        last_word: bytes | None = None,
    ) -> None:
        self._backend = backend
        self._grace = grace
        self._monitor_every = monitor_every
        self._last_word = last_word
        self._orders: deque[Order] = deque()
        self._watched: dict[str, Watched] = {}
        self._by_pid: dict[int, Watched] = {}
        self._notices: deque[Notice] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        self._serial = 0
        self._next_monitor = time.monotonic() + monitor_every
        self._zygote = WarmZygote(
            new_zygote,
            self._selector,
            is_warm=self._launch,
            failed=self._refuse_all,
            lost=self._adopt_all,
            exited=self._reported,
        )
        # Should the zygote die, its children come to us and their exit status with them.
        entry.become_subreaper()

    # --- what callers ask for ---------------------------------------------------------------------

    def warm(self) -> None:
        """Start the zygote if there is none; returns at once."""
        self._zygote.warm()

    def start(
        self, key: str, spec: bytes, limits: ResourceLimits, *, grace: float | None = None
    ) -> None:
        """Start a process once there is a warm zygote; ``Started`` or ``Refused`` follows.

        ``key`` names it in all notices, ``spec`` is given to the zygote's handler.
        """
        complete = limits.merge(DEFAULT_LIMITS)
        self._orders.append(Order(key, spec, complete, self._grace if grace is None else grace))
        self._launch()

    def send(self, key: str, data: bytes) -> None:
        """Send bytes to a process, in order, without waiting for it to read them."""
        if (watched := self._watched.get(key)) is not None:
            watched.link.send(data)

    def consumed(self, key: str, size: int) -> None:
        """Frames of this weight were dealt with: their sender may send on."""
        if (watched := self._watched.get(key)) is not None:
            watched.link.consumed(size)

    def end(self, key: str, reason: KillReason, detail: str | None = None) -> None:
        """End a process for ``reason``; :class:`Ended` follows, also if it wasn't started yet."""
        for order in [order for order in self._orders if order.key == key]:
            self._orders.remove(order)
            self._notices.append(never_started(order, reason, self._backend.name))
        watched = self._watched.get(key)
        if watched is not None:
            watched.detail = watched.detail or detail
            self._decide(watched, reason, time.monotonic(), None)

    def call(self, function: Callable[[], None]) -> None:
        """Have ``function`` run by the thread in :meth:`run_once`. Safe from any thread."""
        self._calls.append(function)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def end_all(self) -> None:
        """End everything that runs and let the zygote go."""
        for key in [*(order.key for order in self._orders), *self._watched]:
            self.end(key, KillReason.SHUTDOWN)
        until = time.monotonic() + _GIVE_UP
        while self._watched and time.monotonic() < until:
            self.run_once(0.1)
        self._zygote.close()

    def close(self) -> None:
        """:meth:`end_all`, and give back what the supervisor itself holds."""
        self.end_all()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        entry.become_subreaper(on=False)

    # --- starting ---------------------------------------------------------------------------------

    def _launch(self) -> None:
        while self._orders:
            if not self._zygote.is_ready:
                self._zygote.warm()
                return
            order = self._orders.popleft()
            try:
                self._fork(order)
            except ZygoteLost as lost:
                # Once more with a fresh one: the old one may have been killed by a step.
                if order.repeated:
                    self._notices.append(Refused(order.key, lost))
                else:
                    self._orders.appendleft(replace(order, repeated=True))
            except SecmonError as refused:
                self._notices.append(Refused(order.key, refused))

    def _refuse_all(self, reason: ZygoteLost) -> None:
        while self._orders:
            self._notices.append(Refused(self._orders.popleft().key, reason))

    def _fork(self, order: Order) -> None:
        key, limits = order.key, order.limits
        self._serial += 1
        box = self._backend.create(f"{self._serial}-{folder_name(key)}", limits)
        ours, theirs = socket.socketpair()
        try:
            with tempfile.TemporaryFile() as document:
                document.write(order.spec)
                document.flush()
                plan = entry_plan(box, limits)
                pid, pidfd = self._zygote.fork(plan, theirs.fileno(), document.fileno())
        except BaseException:
            ours.close()
            # It may have been forked although nobody said so.
            until = time.monotonic() + _GIVE_UP
            while not box.kill() and time.monotonic() < until:
                time.sleep(_KILL_AGAIN)
            box.destroy()
            raise
        finally:
            theirs.close()
        now = time.monotonic()
        watched = Watched(
            key=key,
            limits=limits,
            box=box,
            pid=pid,
            pidfd=pidfd,
            link=Link(
                ours,
                self._selector,
                heard=lambda payload: self._notices.append(Frame(key, payload)),
                refused=lambda reason: self.end(key, KillReason.ENTRY, reason),
                attempted=(
                    (lambda attempt: self._attempted(watched, attempt)) if plan["notify"] else None
                ),
                corrupted=lambda detail: self.end(key, KillReason.PROTOCOL, detail),
            ),
            started=now,
            grace=order.grace,
            deadline=now + (limits.max_execution_time_ms or 0) / 1000,
            next_look=None if self._backend.look_every is None else now,
            windows=CpuWindows(limits.max_cpu_percent),
        )
        box.adopt(pid, self._zygote.pid)
        self._watched[key] = self._by_pid[pid] = watched
        for descriptor in box.alarms():
            self._selector.register(
                descriptor, selectors.EVENT_READ, lambda: self._look(watched, time.monotonic())
            )
        self._notices.append(Started(key, pid))

    # --- the loop ---------------------------------------------------------------------------------

    def run_once(self, timeout: float | None) -> list[Notice]:
        """Wait for at most ``timeout`` seconds, act on what is due, tell what happened."""
        if self._notices:
            timeout = 0
        elif (due := self._next_timer()) is not None:
            left = max(0.0, due - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        # Also if there is something to tell: what came in may be what a timer misses.
        for ready, _ in self._selector.select(timeout):
            ready.data()
        self._timers(time.monotonic())
        notices = list(self._notices)
        self._notices.clear()
        return notices

    def _next_timer(self) -> float | None:
        due = [moment for each in self._watched.values() if (moment := each.due()) is not None]
        if self._zygote.warm_until is not None:
            due.append(self._zygote.warm_until)
        if self._watched:
            due.append(self._next_monitor)
        return min(due, default=None)

    def _timers(self, now: float) -> None:
        self._zygote.tick(now)
        # All in one pass: a wake-up for each of a thousand would cost more than looking at it.
        if monitor := now >= self._next_monitor:
            self._next_monitor = now + self._monitor_every
        for watched in list(self._watched.values()):
            if watched.exit is not None:
                if now >= watched.ended_at:
                    self._finish(watched, now)
                continue
            if watched.deadline is not None and now >= watched.deadline:
                watched.deadline = None
                self._passed(watched, KillReason.TIME, now, now - watched.started)
            if watched.escalation and now >= watched.escalation[0][0]:
                self._escalate(watched, now)
            if watched.next_look is not None and now >= watched.next_look:
                self._look(watched, now)
            if monitor:
                self._monitor(watched, now)
        if monitor:
            self._look_for_the_unreported(now)

    def _look_for_the_unreported(self, now: float) -> None:
        """A zygote that is silent about an exit for so long was stopped."""
        for watched in self._watched.values():
            if watched.exit is not None or watched.adopted or not watched.is_gone():
                continue
            if watched.unreported_since is None:
                watched.unreported_since = now
            elif now - watched.unreported_since >= PATIENCE:
                self._zygote.give_up()
                return

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 65536)
        while self._calls:
            self._calls.popleft()()

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, watched: Watched, now: float) -> None:
        reading = watched.reading = watched.box.read()
        again = self._backend.look_every or reading.look_again
        watched.next_look = None if again is None else now + again
        if reading.out_of_memory:
            self._decide(watched, KillReason.MEMORY, now, reading.memory_bytes)
        elif reading.forks_refused:
            self._decide(watched, KillReason.PROCESSES, now, reading.processes)

    def _monitor(self, watched: Watched, now: float) -> None:
        limits, glance = watched.limits, watched.box.glance()
        if glance.forks_refused or not limits.enforce_memory_limit:
            self._look(watched, now)
        used = watched.windows.sustained(now, glance)
        if used is not None:
            self._passed(watched, KillReason.CPU, now, used)
        memory = watched.reading.memory_bytes or 0
        if not limits.enforce_memory_limit and memory > (limits.max_memory_mb or math.inf) * MB:
            self._passed(watched, KillReason.MEMORY, now, memory)

    def _attempted(self, watched: Watched, attempt: Attempt) -> None:
        watched.attempts += 1
        watched.detail = watched.detail or str(attempt)
        self._passed(watched, KillReason.NETWORK, time.monotonic(), watched.attempts)

    def _passed(
        self, watched: Watched, reason: KillReason, now: float, observed: float | None
    ) -> None:
        """A limit was passed: end the process, or say so once where the limit is only watched."""
        limits = watched.limits
        if is_enforced(limits, reason):
            self._decide(watched, reason, now, observed)
        elif reason not in watched.warned:
            watched.warned.add(reason)
            violation = not_enforced(
                limits,
                reason,
                enforcement=self._backend.name,
                observed=observed,
                detail=watched.detail,
                counters=dict(watched.reading.counters),
            )
            self._notices.append(Warned(watched.key, violation))

    # --- ending -----------------------------------------------------------------------------------

    def _decide(
        self, watched: Watched, reason: KillReason, now: float, observed: float | None
    ) -> None:
        straight = reason in STRAIGHT_TO_KILL
        if watched.reason is not None and not straight:
            return
        if watched.reason is None:
            watched.reason, watched.observed = reason, observed
            self._notices.append(Decided(watched.key, reason))
        if self._last_word is not None and not straight and reason is not KillReason.INTERRUPT:
            watched.link.send(self._last_word)
        watched.escalation = escalation(reason, now, watched.grace)
        self._escalate(watched, now)

    def _escalate(self, watched: Watched, now: float) -> None:
        while watched.escalation and now >= watched.escalation[0][0]:
            _, number = watched.escalation.pop(0)
            if number is None:
                watched.box.kill()
                # Also one that never came into its box, or got out of it.
                self._signal(watched, signal.SIGKILL)
                watched.escalation = [(now + _KILL_AGAIN, None)]
                return
            self._signal(watched, number)

    def _signal(self, watched: Watched, number: signal.Signals) -> None:
        if watched.exit is not None:
            return
        # A setuid program may not be ours to signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if watched.pidfd is not None:
                signal.pidfd_send_signal(watched.pidfd, number)
            else:
                os.kill(watched.pid, number)

    def _reported(self, report: Exit) -> None:
        watched = self._by_pid.get(report.pid)
        if watched is not None:
            self._exited(watched, report)

    def _adopt_all(self) -> None:
        """The zygote is gone: its children are ours by adoption, and so are their exits."""
        for watched in self._watched.values():
            if watched.exit is None and watched.pidfd is not None and not watched.adopted:
                watched.adopted = True
                self._selector.register(
                    watched.pidfd, selectors.EVENT_READ, lambda w=watched: self._wait_for(w)
                )
        if self._watched:
            # Not for the next one to start: should we be killed, it ends those that run.
            self._zygote.warm()

    def _wait_for(self, watched: Watched) -> None:
        try:
            _, status, usage = os.wait4(watched.pid, os.WNOHANG)
            report = Exit(watched.pid, status, usage.ru_utime + usage.ru_stime)
        except ChildProcessError:
            report = Exit(watched.pid, None)
        self._exited(watched, report)

    def _exited(self, watched: Watched, report: Exit) -> None:
        watched.exit = report
        watched.ended_at = time.monotonic()
        watched.give_up = watched.ended_at + _GIVE_UP

    def _finish(self, watched: Watched, now: float) -> None:
        if not watched.box.kill() and now < (watched.give_up or now):
            watched.ended_at = now + _KILL_AGAIN
            return
        watched.link.drain()
        ended = outcome(watched, self._backend.name, now)
        self._release(watched)
        self._notices.append(ended)

    def _release(self, watched: Watched) -> None:
        for descriptor in watched.box.alarms():
            self._selector.unregister(descriptor)
        watched.link.close()
        if watched.pidfd is not None:
            if watched.adopted:
                self._selector.unregister(watched.pidfd)
            os.close(watched.pidfd)
        watched.box.destroy()
        del self._watched[watched.key]
        self._by_pid.pop(watched.pid, None)
