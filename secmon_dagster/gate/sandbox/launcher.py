"""The zygote's other end: start it once a process, ask it for a run, read no more than is wanted.

``subprocess.run(capture_output=True, timeout=…)`` keeps all a script prints (3.3 GB in five
seconds, measured) and waits for whoever inherited stdout. Here output is capped while it is read,
and the end of the script is the end of the reading; its descendants are gone by then.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock

from secmon_dagster.gate.isolation import Isolation

ZYGOTE = Path(__file__).with_name("zygote.py")
START_SECONDS = 20.0
REAP_SECONDS = 5.0
# What every interpreter needs to start.
ALWAYS_READABLE = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"),
    "/etc/ssl/openssl.cnf",  # where it is but can't be read, node ends before its script begins
    *(sys.prefix, sys.base_prefix),
)


@dataclass(frozen=True)
class Ended:
    """How a script ended. ``exit_code`` is negative for a signal; at most one reason is true."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False
    flooded: bool = False


@dataclass(frozen=True)
class Confinement:
    """What a script may do. ``readable`` are the paths it sees beside its interpreter; ``folder``
    is empty, its own, and the only place it writes to."""

    isolation: Isolation
    folder: Path
    readable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 5.0
    max_output: int = 10_000
    memory_bytes: int = 2 << 30

    def limits(self) -> dict[str, int]:
        """Hard resource limits. DATA and not AS: node reserves far more than it uses."""
        return {
            "DATA": self.memory_bytes,
            "CPU": math.ceil(self.timeout) + 1,
            "NOFILE": 256,
            "FSIZE": 8 << 30,
            "CORE": 0,
        }


@dataclass(frozen=True)
class Warm:
    """Bundled checks kept imported: their paths, what they see besides the artifact, how they are
    shut in, and a digest that changes with their bytes."""

    checks: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    isolation: Isolation = Isolation.LANDLOCK
    version: str = ""

    def prepared(self) -> str:
        """What the zygote is told at its start."""
        return json.dumps(
            {
                "checks": self.checks,
                "readable": [*ALWAYS_READABLE, *self.readable],
                "isolation": self.isolation,
            }
        )


def run_confined(
    argv: Sequence[str], confinement: Confinement, *, warm: Warm | None = None
) -> Ended:
    """Run ``argv`` under ``confinement``; nothing of it is left when this returns.

    Args:
        argv: an executable's path and arguments, or one of ``warm.checks`` and its arguments.
        warm: the checks that the zygote is to hold imported; None takes any zygote.

    Raises:
        OSError: the zygote can't be started or doesn't answer.
    """
    started = time.monotonic()
    command = list(argv)
    if confinement.isolation is Isolation.BUBBLEWRAP:
        command = bubblewrap(command, confinement)
    request = json.dumps(
        {
            "argv": command,
            "environment": dict(confinement.environment),
            "folder": str(confinement.folder),
            "readable": [
                *(ALWAYS_READABLE if warm is None else ()),
                *map(str, confinement.readable),
            ],
            "isolation": confinement.isolation,
            "limits": confinement.limits(),
        }
    ).encode()
    with contextlib.ExitStack() as stack:
        ours, theirs = [], []
        for _ in range(3):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            ours.append(reader)
            theirs.append(writer)
        control_reader, control_writer = os.pipe2(os.O_CLOEXEC)
        theirs.append(control_reader)
        for descriptor in ours:
            stack.callback(os.close, descriptor)
        control = stack.enter_context(os.fdopen(control_writer, "wb"))
        try:
            stack.callback(_answered, _send(request, theirs, warm))
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        stdout, stderr, status = ours
        buffers, reason = _watch(
            stdout, stderr, status, started + confinement.timeout, 4 * confinement.max_output
        )
        control.close()  # the keeper now ends all that is left
        code = _status(status)
    if confinement.isolation is Isolation.BUBBLEWRAP and 128 < code <= 128 + 64:
        code = 128 - code  # bubblewrap reports signals as shells do
    return Ended(
        code,
        *buffers,
        seconds=time.monotonic() - started,
        timed_out=reason == "timeout",
        flooded=reason == "flood",
    )


def bubblewrap(argv: list[str], confinement: Confinement) -> list[str]:
    """``argv`` behind bubblewrap: own mounts, processes, network, users.

    Raises:
        OSError: bubblewrap is not installed.
    """
    program = _bubblewrap()
    if program is None:
        raise OSError("bubblewrap (bwrap) is not installed")
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
    for name, value in confinement.environment.items():
        command += ["--setenv", name, value]
    seen = dict.fromkeys([*ALWAYS_READABLE, *map(str, confinement.readable)])
    for path in seen:
        command += _shown(path)
    folder = str(confinement.folder)
    return [*command, "--bind", folder, folder, "--chdir", folder, "--", *argv]


@cache
def _bubblewrap() -> str | None:
    return shutil.which("bwrap")


def _shown(path: str) -> list[str]:
    """What shows ``path`` in the box. A mount costs more than a link: /lib is one on most systems,
    to what is shown anyway."""
    if path in ALWAYS_READABLE and os.path.islink(path):  # noqa: PTH114
        target = os.readlink(path)  # noqa: PTH115
        if target.lstrip("/").startswith("usr/"):
            return ["--symlink", target, path]
    if path.startswith("/usr/"):
        return []  # with /usr
    return ["--ro-bind-try", path, path]


def _watch(
    stdout: int, stderr: int, status: int, deadline: float, max_output: int
) -> tuple[tuple[bytes, bytes], str]:
    """Read both streams until ``status`` speaks. Returns them and why reading ended."""
    streams = {stdout: bytearray(), stderr: bytearray()}
    reason = ""
    with selectors.PollSelector() as selector:
        for descriptor in (stdout, stderr, status):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while not reason:
            ready = [key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))]
            ended = status in ready
            for descriptor, buffer in streams.items():
                if (ended or descriptor in ready) and not _drain(descriptor, buffer, max_output):
                    with contextlib.suppress(KeyError):
                        selector.unregister(descriptor)
            if any(len(buffer) > max_output for buffer in streams.values()):
                reason = "flood"
            elif ended:
                reason = "exit"
            elif time.monotonic() >= deadline:
                reason = "timeout"
    return (bytes(streams[stdout][:max_output]), bytes(streams[stderr][:max_output])), reason


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


def _status(descriptor: int) -> int:
    """The exit code from the keeper, once everything is dead."""
    os.set_blocking(descriptor, False)
    with selectors.PollSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        if not selector.select(REAP_SECONDS):
            raise OSError("the sandbox did not end")
    text = os.read(descriptor, 16)
    if not text:
        raise OSError("the sandbox was lost")
    return int(text)


# --- the zygote -----------------------------------------------------------------------------------


class _Zygote:
    """One warm process and the sockets to it: for programs, and for the checks it holds."""

    def __init__(self, warm: Warm) -> None:
        self.owner = os.getpid()
        self.warm = warm
        self.running = 0
        self.retired = False
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        (self.socket, self.warm_socket), others = zip(*pairs, strict=True)
        for ours in (self.socket, self.warm_socket):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        numbers = [other.fileno() for other in others]
        command = [sys.executable, "-I", "-S", "-B", str(ZYGOTE), *map(str, numbers)]
        self._process = subprocess.Popen(
            [*command, warm.prepared()],
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        for other in others:
            other.close()
        self.socket.settimeout(START_SECONDS)
        if self.socket.recv(16) != b"ready":
            raise OSError("the sandbox's zygote did not start")
        self.socket.settimeout(REAP_SECONDS)
        self.warm_socket.settimeout(REAP_SECONDS)

    def close_if_retired(self) -> None:
        """Let it end if nobody waits for it; it leaves when its sockets close."""
        if not self.retired or (self.running and self.owner == os.getpid()):
            return
        self.socket.close()
        self.warm_socket.close()
        if self.owner == os.getpid():
            self._process.wait()


_lock = Lock()
_zygote: _Zygote | None = None


def _send(request: bytes, descriptors: list[int], warm: Warm | None) -> _Zygote:
    """Ask; returns the zygote that took it, which stays until :func:`_answered`."""
    for fresh in (False, True):
        zygote = _current(warm, fresh)
        connection = zygote.socket if warm is None else zygote.warm_socket
        try:
            socket.send_fds(connection, [request], descriptors)
            return zygote
        except OSError as lost:
            _answered(zygote)
            reason = lost
    raise OSError(f"the sandbox's zygote doesn't answer: {reason}")


def _answered(zygote: _Zygote) -> None:
    with _lock:
        zygote.running -= 1
        zygote.close_if_retired()


def _current(warm: Warm | None, fresh: bool) -> _Zygote:
    """The zygote of this process; a new one if ``fresh`` is wanted or ``warm`` is another. One that
    others still wait for is closed when they have their answers."""
    global _zygote
    with _lock:
        old = _zygote
        usable = old is not None and old.owner == os.getpid() and not fresh
        if old is None or not usable or (warm is not None and old.warm != warm):
            if old is not None:
                old.retired = True
                old.close_if_retired()
            _zygote = _Zygote(warm or (old.warm if old else Warm()))
        assert _zygote is not None
        _zygote.running += 1
        return _zygote
