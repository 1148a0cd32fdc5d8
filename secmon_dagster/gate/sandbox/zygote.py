"""The warm process that security scripts are forked from. Standard library only.

Started as ``python -I -S zygote.py FD SCRIPT…``: reads requests from the socket FD, one message
each, JSON with four descriptors (stdout, stderr, status, control). Per request it forks a keeper;
the keeper forks the script's process, which locks itself down and then runs a bundled check that
is already imported, or executes an interpreter. The keeper adopts whatever the script leaves
behind, and kills all of it when the script ends or when ``control`` closes, which also happens
when the one who asked dies.

Single-threaded on purpose: a fork of a process with threads is not safe, a fork of a big one slow.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from secmon_dagster.gate.sandbox import lockdown
else:
    # -I and -S leave no folder of ours on the path, and this file is no package's member here.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    import lockdown

LARGEST_REQUEST = 1 << 20


def main(arguments: list[str]) -> None:
    """Serve until the other side closes the socket."""
    server = socket.socket(fileno=int(arguments[0]))
    checks = {path: _load(path) for path in arguments[1:]}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's concern here
    gc.freeze()
    server.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, LARGEST_REQUEST, 4)
        if not message:
            return
        if len(descriptors) == 4 and os.fork() == 0:
            server.close()
            _keep(json.loads(message), descriptors, checks)
        for descriptor in descriptors:
            os.close(descriptor)


def _load(path: str) -> ModuleType:
    """A bundled check, imported under the name of its file."""
    name = os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module can be made of {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "warm"):
        module.warm()
    return module


def _keep(request: dict[str, Any], descriptors: list[int], checks: dict[str, Any]) -> NoReturn:
    """Fork the script, wait for its end or for ``control`` to close, leave nothing behind."""
    stdout, stderr, status, control = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    lockdown.prctl(lockdown.PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        os.close(status)
        os.close(control)
        _become(request, stdout, stderr, checks)
    os.close(stdout)
    os.close(stderr)
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(control, select.POLLIN)
    poll.poll()
    code = _reap_all(child)
    os.write(status, str(code).encode())
    os._exit(0)


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


def _become(request: dict[str, Any], stdout: int, stderr: int, checks: dict[str, Any]) -> NoReturn:
    """Turn this process into the script."""
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        for target, descriptor in enumerate((null, stdout, stderr)):
            os.dup2(descriptor, target)
        os.closerange(3, 1024)
        os.umask(0o077)
        os.chdir(request["folder"])
        lockdown.bound_resources(request["limits"])
        _confine(request)
        check = checks.get(request["argv"][0])
        if check is None:
            os.execve(request["argv"][0], request["argv"], request["environment"])  # noqa: S606
        os.environ.clear()
        os.environ.update(request["environment"])
        code = check.main(request["argv"][1:])
        sys.stdout.flush()
        os._exit(code)
    except BaseException as failed:
        os.write(2, f"{type(failed).__name__}: {failed}\n".encode(errors="replace"))
        os._exit(255)


def _confine(request: dict[str, Any]) -> None:
    level = request["isolation"]
    if level in ("rlimits", "bubblewrap"):  # bubblewrap is the program to be executed
        lockdown.prctl(lockdown.PR_SET_NO_NEW_PRIVS, 1)
        return
    if level == "userns":
        lockdown.own_namespaces()
    lockdown.drop_capabilities()
    lockdown.confine_files(request["readable"], [request["folder"]])
    lockdown.deny_system_calls()


if __name__ == "__main__":
    main(sys.argv[1:])
