"""Control groups as folders of small files: make, write, read, empty, remove."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from secmon_dagster.errors import EnforcementUnavailableError

_REMOVE_PAUSE = 0.005


def write(path: Path, value: str) -> None:
    """Write a setting.

    Raises:
        EnforcementUnavailableError: naming file, value and the kernel's answer.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as refused:
        raise EnforcementUnavailableError(
            f"{path} did not take {value!r}: {refused.strerror}",
            hint="`secmon doctor` shows which limits this machine can enforce.",
        ) from refused


def make(folder: Path) -> None:
    """Create a group; one that is already there is used.

    Raises:
        EnforcementUnavailableError: naming the folder and the kernel's answer.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise EnforcementUnavailableError(
            f"no group {folder}: {refused.strerror}",
            hint="`secmon doctor` shows which limits this machine can enforce.",
        ) from refused


def remove(folder: Path, patience: float = 0.0) -> bool:
    """Remove an empty group; it may stay busy for a moment after its last process was killed."""
    until = time.monotonic() + patience
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as busy:
            if busy.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > until:
                return False
            time.sleep(_REMOVE_PAUSE)
        else:
            return True


def end(folder: Path) -> bool:
    """Send SIGKILL to everything in a group; whether nothing was left to send it to."""
    inside = processes(folder)
    if not inside:
        return True
    if (folder / "cgroup.kill").exists():
        write(folder / "cgroup.kill", "1")
        return False
    if (folder / "pids.max").exists():
        # No forks from here on, so that the list of processes can only shrink.
        write(folder / "pids.max", "0")
    for pid in inside:
        # Gone, or a setuid program that isn't ours to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return False


class KeptFile:
    """A file of ``name value`` lines that is read often, so it is opened once."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def table(self) -> dict[str, int]:
        """As :func:`table`; empty if the group is gone."""
        try:
            text = os.pread(self._descriptor, 4096, 0)
        except OSError:
            return {}
        words = text.decode().split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False)}

    def close(self) -> None:
        os.close(self._descriptor)


class Changes:
    """A descriptor that turns readable when one of some event files changes.

    Such a file is readable at any time; that it changed is "priority". Inside an epoll of its own
    that becomes plain readiness, until :meth:`seen` reads the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._epoll = select.epoll()
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        for descriptor in self._files:
            os.read(descriptor, 4096)
            # A file of a recorded tree is no event file and can't be waited for.
            with contextlib.suppress(PermissionError):
                self._epoll.register(descriptor, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def seen(self) -> None:
        """Look at the files, so that the next change counts as one."""
        for descriptor in self._files:
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.read(descriptor, 4096)

    def close(self) -> None:
        self._epoll.close()
        while self._files:
            os.close(self._files.pop())


def empty_and_remove(folder: Path, patience: float = 3.0) -> bool:
    """End what is left in a group and in the groups below it, and remove them."""
    if not folder.is_dir():
        return True
    for child in folder.iterdir():
        if child.is_dir():
            empty_and_remove(child, patience)
    until = time.monotonic() + patience
    while not end(folder) and time.monotonic() < until:
        time.sleep(_REMOVE_PAUSE)
    return remove(folder, patience)


def number(path: Path) -> int | None:
    """A file of one number; ``max`` and a file that isn't there are ``None``."""
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def table(path: Path) -> dict[str, int]:
    """A file of ``name value`` lines; empty if it isn't there."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def processes(folder: Path) -> list[int]:
    """Process ids in a group; empty if it is gone."""
    return [int(line) for line in _text(folder / "cgroup.procs").split()]


def _text(path: Path) -> str:
    """All of a file, at a third of what ``read_text`` costs; empty if it isn't there."""
    parts = []
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(descriptor, 65536):
                parts.append(part)
        finally:
            os.close(descriptor)
    return b"".join(parts).decode()
