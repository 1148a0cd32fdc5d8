"""Run a program and read no more of it than is wanted; whatever happens, its group is gone after.

``subprocess.run(capture_output=True, timeout=…)`` keeps all a script prints (3.3 GB in five
seconds, measured) and waits for whoever inherited stdout. Here output is capped while it is read,
and the end of the program itself is the end of the reading.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# RLIMIT_DATA and not RLIMIT_AS: node reserves far more address space than it uses.
BOUNDS = {
    resource.RLIMIT_DATA: 2 << 30,
    resource.RLIMIT_CPU: 60,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_FSIZE: 8 << 30,
    resource.RLIMIT_CORE: 0,
}


@dataclass(frozen=True)
class Ended:
    """How a program ended. ``exit_code`` is negative for a signal."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False
    flooded: bool = False


def run_bounded(
    argv: Sequence[str],
    *,
    timeout: float,
    max_output: int,
    environment: Mapping[str, str],
    folder: Path,
    pass_descriptors: Sequence[int] = (),
) -> Ended:
    """Run ``argv`` for at most ``timeout`` seconds and read at most ``max_output`` bytes of each
    stream; a program that prints more is ended.

    Raises:
        OSError: it can't be started.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
        pass_fds=tuple(pass_descriptors),
    )
    assert process.stdout is not None and process.stderr is not None
    pidfd = os.pidfd_open(process.pid)
    for kind, bound in BOUNDS.items():
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, kind, (bound, bound))
    try:
        ended = _watch(
            process.stdout.fileno(), process.stderr.fileno(), pidfd, started + timeout, max_output
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(pidfd)
        process.stdout.close()
        process.stderr.close()
    stdout, stderr, reason = ended
    return Ended(
        process.returncode,
        stdout,
        stderr,
        time.monotonic() - started,
        timed_out=reason == "timeout",
        flooded=reason == "flood",
    )


def _watch(
    stdout: int, stderr: int, exit_sign: int, deadline: float, max_output: int
) -> tuple[bytes, bytes, str]:
    """Read both streams until ``exit_sign`` is readable. Returns them and why reading ended."""
    buffers = {stdout: bytearray(), stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in (stdout, stderr):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        selector.register(exit_sign, selectors.EVENT_READ)
        reason = ""
        while not reason:
            events = selector.select(max(0.0, deadline - time.monotonic()))
            ready = [key.fd for key, _ in events]
            for descriptor in ready:
                if descriptor in buffers:
                    if not _drain(descriptor, buffers[descriptor], max_output):
                        selector.unregister(descriptor)
                    if len(buffers[descriptor]) > max_output:
                        reason = "flood"
            if not reason and exit_sign in ready:
                for descriptor, buffer in buffers.items():
                    _drain(descriptor, buffer, max_output)
                flooded = any(len(buffer) > max_output for buffer in buffers.values())
                reason = "flood" if flooded else "exit"
            elif not reason and time.monotonic() >= deadline:
                reason = "timeout"
    return bytes(buffers[stdout][:max_output]), bytes(buffers[stderr][:max_output]), reason


def _drain(descriptor: int, buffer: bytearray, max_output: int) -> bool:
    """Read what is there, one byte beyond the cap at most; False at the end of the stream."""
    while len(buffer) <= max_output:
        try:
            piece = os.read(descriptor, min(65_536, max_output + 1 - len(buffer)))
        except BlockingIOError:
            return True
        if not piece:
            return False
        buffer += piece
    return True
