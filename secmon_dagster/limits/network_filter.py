"""A seccomp filter that hands calls naming a network address to a listener.

Part of entering a box, so only the standard library: ``entry.py`` imports it beside itself.

The namespace is what denies the network; this tells who tried, and where to. Calls without an
address, such as sending on a connected socket, aren't slowed down. ``io_uring``, which would pass
by the filter, is refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 8

_ALLOW = 0x7FFF0000
_NOTIFY = 0x7FC00000
_REFUSE = 0x00050000 | errno.EPERM

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _FIFTH_LOW, _FIFTH_HIGH = 0, 4, 16, 48, 52
_X32_BIT = 0x40000000
_IO_URING_SETUP = 425


@dataclass(frozen=True)
class Calls:
    """Numbers of the system calls concerned, on one architecture."""

    architecture: int
    seccomp: int
    connect: int
    sendto: int
    sendmsg: int
    sendmmsg: int


CALLS = {
    "x86_64": Calls(0xC000003E, 317, 42, 44, 46, 307),
    "aarch64": Calls(0xC00000B7, 277, 203, 206, 211, 269),
}


def native_calls() -> Calls:
    """The numbers of this machine.

    Raises:
        OSError: ENOSYS, no filter is known for it.
    """
    machine = platform.machine()
    if machine not in CALLS:
        raise OSError(errno.ENOSYS, f"no system-call filter for {machine}")
    return CALLS[machine]


def has_filters() -> bool:
    """Whether this kernel and machine can tell of attempts; where not, they are denied unheard."""
    if platform.machine() not in CALLS:
        return False
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as actions:  # noqa: PTH123
            return "user_notif" in actions.read().split()
    except OSError:
        return False


def assemble(calls: Calls, link: int) -> list[tuple[int, int, int, int]]:
    """The filter as instructions (code, jump if true, jump if false, operand).

    ``sendmsg`` on the descriptor ``link`` is let through: the listener itself is sent that way,
    before anybody could answer.
    """
    lines: list[tuple[str, int, int, str, str]] = [
        ("", _LOAD, _ARCHITECTURE, "", ""),
        ("", _IF_EQUAL, calls.architecture, "", "refuse"),
        ("", _LOAD, _NUMBER, "", ""),
        ("", _IF_AT_LEAST, _X32_BIT, "refuse", ""),
        ("", _IF_EQUAL, _IO_URING_SETUP, "refuse", ""),
        ("", _IF_EQUAL, calls.connect, "notify", ""),
        ("", _IF_EQUAL, calls.sendmmsg, "notify", ""),
        ("", _IF_EQUAL, calls.sendmsg, "message", ""),
        ("", _IF_EQUAL, calls.sendto, "", "allow"),
        ("", _LOAD, _FIFTH_LOW, "", ""),
        ("", _IF_EQUAL, 0, "", "notify"),
        ("", _LOAD, _FIFTH_HIGH, "", ""),
        ("", _IF_EQUAL, 0, "allow", "notify"),
        ("message", _LOAD, _FIRST, "", ""),
        ("", _IF_EQUAL, link, "allow", "notify"),
        ("allow", _RETURN, _ALLOW, "", ""),
        ("notify", _RETURN, _NOTIFY, "", ""),
        ("refuse", _RETURN, _REFUSE, "", ""),
    ]
    place = {label: index for index, (label, *_) in enumerate(lines) if label}
    return [
        (
            code,
            place[yes] - index - 1 if yes else 0,
            place[no] - index - 1 if no else 0,
            operand,
        )
        for index, (_, code, operand, yes, no) in enumerate(lines)
    ]


def install(link: int) -> int:
    """Put the filter on this process and what it starts; returns the listener's descriptor.

    Raises:
        OSError: as the kernel answered.
    """
    calls = native_calls()
    program = b"".join(struct.pack("HBBI", *line) for line in assemble(calls, link))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    filter_program = ctypes.create_string_buffer(header, len(header))
    libc = ctypes.CDLL(None, use_errno=True)
    # Without this only root may filter, and a setuid program could be made to misbehave by it.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    listener: int = libc.syscall(calls.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, filter_program)
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no system-call filter: {os.strerror(number)}")
    return listener
