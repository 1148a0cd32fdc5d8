"""What a process does to itself to enter its box, before any foreign code runs.

Only the standard library, and no import of the package: ``run_boxed`` starts this file by its path
in an isolated interpreter, and the zygote calls :func:`enter` in the child right after a fork. Each
step either holds or raises: a process that could not enter its box must not go on.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import signal
import sys
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

NOT_ENTERED = 125
"""Exit code of a process that could not enter its box."""

NOT_STARTED = 127
"""Exit code of a box whose program could not be started."""


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


def enter(plan: dict[str, Any]) -> None:
    """Enter the box that ``plan`` describes.

    Keys: ``join`` (``cgroup.procs`` files), ``subreaper`` (bool), ``network`` (bool: keep it).

    Raises:
        OSError: a step that did not hold.
    """
    for procs in plan.get("join", ()):
        _write(procs, "0")
    if plan.get("subreaper"):
        become_subreaper()
    if not plan.get("network", True):
        leave_the_network()


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _main(plan_text: str, argv: list[str]) -> None:
    """``entry.py PLAN PROGRAM ARGS…`` runs a program, ``entry.py PLAN`` a pickled callable (fd)."""
    plan = json.loads(plan_text)
    try:
        enter(plan)
    except OSError as refused:
        sys.stderr.write(f"secmon: the box could not be entered: {refused}\n")
        sys.stderr.flush()
        os._exit(NOT_ENTERED)
    for name in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    if argv:
        try:
            os.execvpe(argv[0], argv, os.environ)  # noqa: S606 - running it is what this is for
        except OSError as missing:
            sys.stderr.write(f"secmon: {argv[0]}: {missing.strerror}\n")
            sys.stderr.flush()
            os._exit(NOT_STARTED)
    sys.path[:] = plan["sys_path"]
    with os.fdopen(int(plan["callable_fd"]), "rb") as source:
        # Written by our own parent process into a file nobody else can open.
        function = pickle.load(source)  # noqa: S301
    function()


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
