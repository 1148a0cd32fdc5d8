"""The warm process that security scripts are forked from. Standard library only.

Started as ``python -I -S zygote.py FD FD JSON``. Two sockets take requests, one message each, JSON
with four descriptors (stdout, stderr, status, control): the first for programs to execute, the
second for bundled checks, which are imported already. What answers is a keeper, forked in advance,
with the script's process under it, forked in advance too and, for bundled checks, locked down but
for the paths of its request. Both do one request and are gone: nothing of a script is there for the
next one. The keeper adopts whatever the script leaves behind, and kills all of it when the script
ends or when ``control`` closes, which also happens when the one who asked dies.

Single-threaded on purpose: a fork of a process with threads is not safe, a fork of a big one slow.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from secmon_dagster.gate.sandbox import lockdown
else:
    # -I and -S leave no folder of ours on the path, and this file is no package's member here.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    import lockdown

_Run = Callable[[socket.socket], NoReturn]
LARGEST_REQUEST = 1 << 20
SPARES = 3
# Milliseconds after which a check's place is taken by another spare process; a check that is done
# by then doesn't share the processor with the making of one.
SOON_ENDED = 5


def main(arguments: list[str]) -> None:
    """Serve until the other side closes the sockets."""
    programs, bundled = (socket.socket(fileno=int(number)) for number in arguments[:2])
    prepared = json.loads(arguments[2])
    checks = {path: _load(path) for path in prepared["checks"]}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's concern here
    gc.collect()
    gc.freeze()

    def run_bundled(requests: socket.socket) -> NoReturn:
        _run_check(requests, prepared, checks)

    poll = select.poll()
    poll.register(programs, select.POLLRDHUP)
    waiting: dict[int, tuple[socket.socket, socket.socket, _Run]] = {}

    def add(own: socket.socket, other: socket.socket, run: _Run) -> None:
        idle = _spare(own, other, run)
        waiting[idle] = own, other, run
        poll.register(idle)

    add(programs, bundled, _run_program)
    for _ in range(SPARES if checks else 0):
        add(bundled, programs, run_bundled)
    programs.send(b"ready")
    while True:
        for ready, _ in poll.poll():
            if ready == programs.fileno():
                return
            poll.unregister(ready)
            os.close(ready)
            add(*waiting.pop(ready))


def _spare(own: socket.socket, other: socket.socket, run: _Run) -> int:
    """Fork a keeper that waits for a request; the pipe returned hangs up when another is due."""
    idle, busy = os.pipe()
    if os.fork() == 0:
        os.close(idle)
        other.close()
        _keep(own, busy, run)
    os.close(busy)
    return idle


def _keep(requests: socket.socket, busy: int, run: _Run) -> NoReturn:
    """Hand one request to a child, wait for its end, leave nothing behind."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    lockdown.prctl(lockdown.PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        requests.close()
        ours.close()
        os.close(busy)
        run(theirs)
    theirs.close()
    message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 4)
    requests.close()
    if len(descriptors) == 4:
        stdout, stderr, status, control = descriptors
        with contextlib.suppress(OSError):  # the child is dead: so its status will say
            socket.send_fds(ours, [message], [stdout, stderr])
        os.close(stdout)
        os.close(stderr)
        ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(control, select.POLLIN)
        if not poll.poll(SOON_ENDED):
            os.close(busy)
            poll.poll()
        os.write(status, str(_reap_all(child)).encode())
    os._exit(0)  # where nobody asked, the child ends when its socket closes


def _load(path: str) -> ModuleType:
    """A bundled check, imported under the name of its file."""
    name = os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module can be made of {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _rehearse(module, 20)
    return module


def _rehearse(check: ModuleType, times: int) -> None:
    """Run a check on nothing, so that all that Python prepares late is there."""
    if hasattr(check, "rehearse"):
        for _ in range(times):
            check.rehearse()


def _reap_all(child: int) -> int:
    """Kill and collect every descendant; returns the script's exit code, negative for a signal.

    What double-forks becomes a child of this process when its parent dies, so killing children
    until there are none gets all of them.
    """
    code = -signal.SIGKILL
    done, waited = os.waitpid(child, os.WNOHANG)
    if done == child:
        code = os.waitstatus_to_exitcode(waited)
    while True:
        for found in _children():
            try:
                os.kill(found, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            done, waited = os.waitpid(-1, 0)
        except ChildProcessError:
            return code
        if done == child:
            code = os.waitstatus_to_exitcode(waited)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return [int(number) for number in file.read().split()]


def _run_program(requests: socket.socket) -> NoReturn:
    """Turn this process into the script, by executing its interpreter."""
    try:
        request = _wait(requests)
        os.closerange(3, 1024)
        os.chdir(request["folder"])
        lockdown.bound_resources(request["limits"])
        level = request["isolation"]
        if level in ("rlimits", "bubblewrap"):  # bubblewrap is the program to be executed
            lockdown.prctl(lockdown.PR_SET_NO_NEW_PRIVS, 1)
        else:
            rules = _confine(level, request["readable"])
            lockdown.confine_files(rules, [], [request["folder"]])
        os.execve(request["argv"][0], request["argv"], request["environment"])  # noqa: S606
    except BaseException as failed:
        _give_up(failed)


def _run_check(
    requests: socket.socket, prepared: dict[str, Any], checks: dict[str, ModuleType]
) -> NoReturn:
    """Lock this process down as far as can be, wait for the one request, and run its check."""
    rules, failed = -1, None
    try:
        rules = _confine(prepared["isolation"], prepared["readable"])
        os.environ.clear()
        for check in checks.values():
            _rehearse(check, 1)  # what is written to now is this process's own when it matters
    except Exception as reason:
        failed = reason
    try:
        request = _wait(requests)
        if failed is not None:
            raise failed
        os.chdir(request["folder"])
        lockdown.bound_resources(request["limits"])
        lockdown.confine_files(rules, request["readable"], [request["folder"]])
        requests.close()
        os.closerange(3, 1024)
        os.environ.update(request["environment"])
        code = checks[request["argv"][0]].main(request["argv"][1:])
        sys.stdout.flush()
        os._exit(code)
    except BaseException as reason:
        _give_up(reason)


def _wait(requests: socket.socket) -> dict[str, Any]:
    """The one request; its output is this process's from here on."""
    message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 2)
    if len(descriptors) != 2:
        os._exit(255)
    null = os.open("/dev/null", os.O_RDONLY)
    for target, descriptor in enumerate((null, *descriptors)):
        os.dup2(descriptor, target)
    os.umask(0o077)
    return dict(json.loads(message))


def _confine(level: str, readable: list[str]) -> int:
    """All but the files; returns the rules about those, to be completed and put in force."""
    if level == "userns":
        lockdown.own_namespaces()
    lockdown.drop_capabilities()
    rules = lockdown.rules_for_files(readable)
    lockdown.deny_system_calls()
    return rules


def _give_up(failed: BaseException) -> NoReturn:
    os.write(2, f"{type(failed).__name__}: {failed}\n".encode(errors="replace"))
    os._exit(255)


if __name__ == "__main__":
    main(sys.argv[1:])
