"""The watching side of network denial: answer each attempt with a refusal, and remember it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from secmon_dagster.limits.network_filter import Calls, native_calls

_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_STILL_VALID = 0x40082102
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_LONGEST_ADDRESS = 128


@dataclass(frozen=True, slots=True)
class Attempt:
    """One refused attempt to reach something."""

    pid: int
    call: str
    family: str
    target: str

    def __str__(self) -> str:
        return f"tried to reach {self.target} ({self.family}, {self.call})"


def describe_address(raw: bytes) -> tuple[str, str] | None:
    """Family and target of a ``sockaddr``, or ``None`` if it doesn't lead out of the machine.

    A socket with a path in the file system is no network; an abstract one belongs to the network
    namespace and is.
    """
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        (port,) = struct.unpack_from(">H", raw, 2)
        return "AF_INET", f"{socket.inet_ntop(socket.AF_INET, raw[4:8])}:{port}"
    if family == socket.AF_INET6 and len(raw) >= 24:
        (port,) = struct.unpack_from(">H", raw, 2)
        return "AF_INET6", f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{port}"
    if family == socket.AF_UNIX:
        if len(raw) > 2 and raw[2] == 0:
            return "AF_UNIX", "@" + raw[3:].rstrip(b"\0").decode("utf-8", "replace")
        return None
    if family in (socket.AF_UNSPEC, getattr(socket, "AF_NETLINK", 16)):
        return None
    return f"family {family}", "an address"


class Listener:
    """Answers the notifications of one box's filter."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._calls = native_calls()

    def fileno(self) -> int:
        return self._descriptor

    def answer(self) -> Attempt | None:
        """Answer one notification; the attempt, if it was one."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, buffer)
        except OSError as gone:
            # The caller was killed between the wake-up and our reading.
            if gone.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                return None
            raise
        identity, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        attempt = self._attempt(pid, number, arguments)
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._descriptor, _STILL_VALID, struct.pack("=Q", identity))
            # Going on is safe although the caller could change the address after we read it: the
            # namespace, not this answer, is what denies.
            flags, error = (_CONTINUE, 0) if attempt is None else (0, -errno.EACCES)
            fcntl.ioctl(self._descriptor, _SEND, _RESPONSE.pack(identity, 0, error, flags))
        return attempt

    def close(self) -> None:
        os.close(self._descriptor)

    def _attempt(self, pid: int, number: int, arguments: list[int]) -> Attempt | None:
        name, raw = _address(self._calls, pid, number, arguments)
        found = describe_address(raw)
        return None if found is None else Attempt(pid, name, *found)


def _address(calls: Calls, pid: int, number: int, arguments: list[int]) -> tuple[str, bytes]:
    """Name of the call and the bytes of the address it names, read from the caller's memory."""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "call", b""
    try:
        if number == calls.connect:
            return "connect", _read(memory, arguments[1], arguments[2])
        if number == calls.sendto:
            return "sendto", _read(memory, arguments[4], arguments[5])
        # struct msghdr begins with the address and its length; struct mmsghdr begins with msghdr.
        header = _read(memory, arguments[1], 12)
        place, length = struct.unpack("=QI", header) if len(header) == 12 else (0, 0)
        name = "sendmsg" if number == calls.sendmsg else "sendmmsg"
        return name, _read(memory, place, length) if place else b""
    finally:
        os.close(memory)


def _read(memory: int, place: int, length: int) -> bytes:
    try:
        return os.pread(memory, min(length, _LONGEST_ADDRESS), place)
    except (OSError, OverflowError):
        return b""
