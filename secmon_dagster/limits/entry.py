"""What a process does to itself to enter its box, before any foreign code runs.

Only the standard library, and no import of the package: ``run_boxed`` starts this file by its path
in an isolated interpreter, and the zygote calls :func:`enter` in the child right after a fork. Each
step either holds or raises: a process that could not enter its box must not go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

NOT_ENTERED = 125
"""Exit code of a process that could not enter its box."""

REFUSAL = b"!"
"""First byte of the frame in which a process says why it could not enter its box."""


def prctl(option: int, argument: int) -> None:
    """``prctl(2)`` with one argument.

    Raises:
        OSError: as the kernel answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper(on: bool = True) -> None:
    """Orphans among the descendants of this process come back to it instead of to init.

    Linux only; elsewhere nothing happens and orphans are found by looking at all processes.
    """
    if sys.platform == "linux":
        prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def die_with_parent(parent: int) -> None:
    """The kernel kills this process as soon as the thread that started it is gone; Linux only."""
    if sys.platform == "linux":
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before it could be asked for
            os._exit(NOT_ENTERED)


def outlive_parent() -> None:
    """Take back :func:`die_with_parent`."""
    if sys.platform == "linux":
        prctl(_PR_SET_PDEATHSIG, 0)


def unshare(flags: int) -> None:
    """``unshare(2)``.

    Raises:
        OSError: as the kernel answered; where there is no such call, ENOSYS.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def leave_the_network() -> None:
    """Move this process into a network namespace of its own, which has no way out.

    As a plain user through a user namespace, in which the process keeps its user and group ids.

    Raises:
        OSError: namespaces are forbidden or unknown here.
    """
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        user, group = os.getuid(), os.getgid()
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")


def enter(plan: dict[str, Any], link: int) -> None:
    """Enter the box that ``plan`` describes.

    Keys: ``join`` (``cgroup.procs`` or ``tasks`` files), ``subreaper`` (bool), ``processes`` (a cap
    on all of this user's processes and threads; the kernel ignores it for root), ``network`` (bool:
    keep it), ``notify`` (bool: send a listener for network calls over the socket ``link``).

    Raises:
        OSError: a step that did not hold.
    """
    for procs in plan.get("join", ()):
        _write(procs, "0")
    if plan.get("subreaper"):
        become_subreaper()
    if "processes" in plan and os.getuid() != 0:
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        cap = plan["processes"] if hard == resource.RLIM_INFINITY else min(plan["processes"], hard)
        resource.setrlimit(resource.RLIMIT_NPROC, (cap, cap))
    if not plan.get("network", True):
        leave_the_network()
        if plan.get("notify"):
            _send_listener(link)


def refuse(link: int, reason: OSError) -> NoReturn:
    """Tell the watching side why the box could not be entered, and end."""
    text = REFUSAL + (str(reason) or type(reason).__name__).encode()
    with contextlib.suppress(OSError):
        os.write(link, struct.pack(">I", len(text)) + text)
    os._exit(NOT_ENTERED)


def _send_listener(link: int) -> None:
    if __package__:
        from secmon_dagster.limits import network_filter
    else:
        sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 - pathlib costs 5 ms here
        import network_filter  # type: ignore[import-not-found,no-redef]

    listener = network_filter.install(link)
    channel = socket.socket(fileno=link)
    socket.send_fds(channel, [struct.pack(">I", 0)], [listener])
    channel.detach()
    os.close(listener)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _guard() -> None:
    """Fork; the child goes on, the parent sees to it that nothing outlives the child.

    For boxes without groups: orphans come to the guard, which ends them when the child is over, and
    then ends as the child did.
    """
    become_subreaper()
    child = os.fork()
    if child == 0:
        return

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, forward)
    _, status = os.waitpid(child, 0)
    _end_children()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _end_children() -> None:
    place = f"/proc/self/task/{os.getpid()}/children"
    while True:
        with open(place) as listing:  # noqa: PTH123 - pathlib costs 5 ms here
            children = [int(pid) for pid in listing.read().split()]
        if not children:
            return
        # Stopped first, so that none forks while we go through the list; then all at once.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _main(plan_text: str, argv: list[str]) -> None:
    """``entry.py PLAN PROGRAM ARGS…`` runs a program, ``entry.py PLAN`` a pickled callable."""
    plan = json.loads(plan_text)
    link = int(plan["link"])
    try:
        if plan.pop("subreaper", False):
            _guard()
        enter(plan, link)
    except OSError as reason:
        refuse(link, reason)
    for name in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    if argv:
        # Gone when the program starts; the filter, if there is one, stays.
        os.set_inheritable(link, False)
        try:
            os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - running it is what this is for
        except OSError as missing:
            refuse(link, OSError(missing.errno, f"{argv[0]}: {missing.strerror}"))
    os.close(link)
    sys.path[:] = plan["sys_path"]
    with os.fdopen(int(plan["callable"]), "rb") as source:
        source.seek(0)
        # Written by our own parent process into a file nobody else can open.
        function = pickle.load(source)  # noqa: S301
    function()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
