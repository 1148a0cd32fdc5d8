"""Shut in the calling process, for good: resource limits, namespaces, Landlock, seccomp.

Pure ctypes, no privileges needed, under a millisecond. Standard library only: this runs in the
zygote's children.

Source: ``linux/landlock.h``, ``linux/seccomp.h``, landlock(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable
from functools import cache

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 24, 36
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = (
    0x10000000,
    0x40000000,
    0x08000000,
    1 << 26,
)

# Landlock access rights.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | (1 << 15)
NET_RIGHTS, SCOPES = 0b11, 0b11

# Denied with EPERM: sockets, other processes, mounts, modules, keys, and io_uring, which would get
# around the list.
_X86_64 = (
    *(41, 42, 49, 62, 101, 133, 155, 161, 163, 164, 165, 166, 167, 168, 169, 172, 173, 175, 176),
    *(179, 227, 246, 248, 249, 250, 259, 272, 298, 303, 304, 308, 310, 311, 313, 320, 321, 323),
    *(424, 425, 426, 427, 438),
)
_AARCH64 = (
    *(198, 203, 200, 129, 117, 33, 41, 51, 89, 170, 40, 39, 224, 225, 142, 105, 106, 60, 112, 104),
    *(217, 218, 219, 97, 241, 264, 265, 268, 270, 271, 273, 294, 280, 282),
    *(424, 425, 426, 427, 438),
)
_DENIED = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *values: int) -> None:
    """prctl(2).

    Raises:
        OSError: the kernel refused.
    """
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl {option}")


def bound_resources(limits: dict[str, int]) -> None:
    """Set hard resource limits, by their names without ``RLIMIT_``."""
    for name, bound in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            bound = min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def own_namespaces() -> None:
    """A user, network, IPC and host-name namespace of one's own, with the same user id in it.

    Raises:
        OSError: not allowed here.
    """
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    _check(_libc.unshare(flags), "unshare")
    for name, text in (
        ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"),
    ):  # fmt: skip
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib is not loaded here
            file.write(text)


@cache
def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, int(_libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def seccomp_architecture() -> str | None:
    """The architecture whose system calls are known here, None for others."""
    machine = platform.machine()
    return machine if machine in _DENIED else None


def rules_for_files(readable: Iterable[str]) -> int:
    """Landlock: a descriptor of rules by which these may be read and executed, and no more.

    Paths that don't exist are left out. Nothing holds before :func:`confine_files`.

    Raises:
        OSError: the kernel has no Landlock or refused.
    """
    attributes = struct.pack("<QQQ", _rights(), NET_RIGHTS, SCOPES)
    attributes = attributes[: 8 if landlock_abi() < 4 else 16 if landlock_abi() < 6 else 24]
    rules = _check(
        _libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock"
    )
    for paths, granted in (
        (readable, READ_FILE | READ_DIR | EXECUTE),
        (("/dev/null", "/dev/zero", "/dev/full"), READ_FILE | WRITE_FILE),
        (("/dev/urandom", "/dev/random"), READ_FILE),
    ):
        for path in paths:
            _allow(rules, path, granted & _rights())
    return rules


def confine_files(rules: int, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Add paths to ``rules`` and put them in force: no other files, no TCP, no signals out.

    Raises:
        OSError: the kernel refused.
    """
    for path in readable:
        _allow(rules, path, (READ_FILE | READ_DIR | EXECUTE) & _rights())
    for path in writable:
        _allow(rules, path, _rights() & ~EXECUTE)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(_libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


@cache
def _rights() -> int:
    """All rights over files that this kernel knows.

    Raises:
        OSError: it has no Landlock.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError("the kernel has no Landlock")
    return FS_RIGHTS_BY_ABI[max(known for known in FS_RIGHTS_BY_ABI if known <= abi)]


def _allow(rules: int, path: str, granted: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):  # noqa: PTH112
        granted &= ON_FILES
    rule = struct.pack("<Qi", granted, descriptor)
    _check(_libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), f"landlock {path}")
    os.close(descriptor)


def deny_system_calls() -> None:
    """Seccomp: the calls above fail with EPERM; another architecture's calls end the process.

    Raises:
        OSError: this architecture's numbers are not known, or the kernel refused.
    """
    machine = seccomp_architecture()
    if machine is None:
        raise OSError("no seccomp table for this architecture")
    architecture, denied = _DENIED[machine]
    load, jump_equal, jump_greater, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    count = len(denied)
    program = [
        (load, 0, 0, 4),
        (jump_equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        (jump_greater, count + 1, 0, 0x40000000),  # the x32 numbers of the same calls
        *[(jump_equal, count - index, 0, number) for index, number in enumerate(denied)],
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("<HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    holder = ctypes.create_string_buffer(head)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(holder))


def drop_capabilities() -> None:
    """Give up every capability, now and for programs to come; nothing to do for a plain user."""
    if os.geteuid() != 0:
        return
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("<Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "capset")
