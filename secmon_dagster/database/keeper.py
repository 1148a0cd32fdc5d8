"""Stops the embedded server when the last process that needs it is gone, however it went.

The server must not die with whoever started it (others may use it) and must not outlive them all (a
``kill -9`` would leave it behind). So each user holds a lock on a file of its own; the kernel lets
go of the lock when the process ends. The keeper, a small process beside the server, waits for these
locks one by one and stops the server when no user is left.

Run as a script with the server's data folder as its argument; standard library only, so that it
starts at once and stays small.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

STOP_SECONDS = 15.0
# Present after `secmon db start`: the server stays until `secmon db stop`.
FOR_GOOD = "for-good"


def holders_directory(data: Path) -> Path:
    """Where the users' lock files are."""
    return data.with_name(data.name + ".holders")


@contextmanager
def starting_or_stopping(data: Path) -> Iterator[None]:
    """Nobody else starts or stops the server meanwhile."""
    with _open(holders_directory(data) / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold(data: Path) -> IO[bytes]:
    """Register this process as a user, until the file is closed or the process ends."""
    file = _open(holders_directory(data) / f"{os.getpid()}-{time.monotonic_ns()}.user")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def in_use(data: Path) -> bool:
    """Whether any user is left. Call inside :func:`starting_or_stopping`."""
    if (holders_directory(data) / FOR_GOOD).exists():
        return True
    for path in holders_directory(data).glob("*.user"):
        with _open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            path.unlink(missing_ok=True)
    return False


def postmaster(data: Path) -> list[str] | None:
    """What the running server says of itself, or None (see "postmaster.pid" in PostgreSQL's file
    layout)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return lines if _is_server(int(lines[0]), data) else None
    except (FileNotFoundError, ValueError, IndexError):
        return None


def _is_server(pid: int, data: Path) -> bool:
    """Whether the process is a server on this folder: a process id that a file has kept over a
    crash may be anybody's."""
    if sys.platform == "linux":
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        ps = ["ps", "-o", "command=", "-p", str(pid)]
        words = subprocess.run(ps, check=False, capture_output=True).stdout
    return b"postgres -D " + os.fsencode(data) + b" " in words


def postmaster_pid(data: Path) -> int | None:
    """The running server's process id, or None."""
    lines = postmaster(data)
    return None if lines is None else int(lines[0])


def stop_server(data: Path) -> bool:
    """Fast shutdown (clients are disconnected), then wait; SIGKILL if it doesn't end.

    Returns:
        Whether a server was running.
    """
    lines = postmaster(data)
    if lines is None:
        return False
    pid = int(lines[0])
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while postmaster_pid(data) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    if lines[4] != str(data):  # made for this server, its own path being none for a socket
        with suppress(OSError):
            Path(lines[4]).rmdir()
    return True


@contextmanager
def _being_the_keeper(data: Path) -> Iterator[bool]:
    with _open(holders_directory(data) / "keeper") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def wait_until_unkept(data: Path) -> None:
    """Return when no keeper runs."""
    with _open(holders_directory(data) / "keeper") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def keep(data: Path) -> None:
    """Wait until no user is left, then stop the server."""
    with _being_the_keeper(data) as first:
        while first and postmaster_pid(data) is not None:
            for path in holders_directory(data).glob("*.user"):
                with _open(path) as file:
                    fcntl.flock(file, fcntl.LOCK_EX)  # returns when that user is gone
            if (holders_directory(data) / FOR_GOOD).exists():
                return
            with starting_or_stopping(data):
                if not in_use(data):
                    stop_server(data)
                    return


def _open(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.open("ab")


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
