"""The whole platform as one process tree: started in order, stopped together, leaving nothing."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import psutil
import yaml

from secmon_dagster.audit.keys import key_file
from secmon_dagster.errors import ConflictError, SecmonError
from secmon_dagster.settings import Settings, get_settings, variable_of

MODULE = "secmon_dagster.definitions"
START_SECONDS = 120.0
STOP_SECONDS = 10.0
_LIBC = ctypes.CDLL(None)  # opened here: between fork and exec nothing may be loaded
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Service:
    """One server of the platform."""

    name: str
    command: list[str]
    address: str  # for people
    ready: Callable[[], bool]
    setting: str | None = None  # the Settings field of its port
    loads: Callable[[], None] | None = None  # raises if, though ready, it serves nothing


@dataclass
class Platform:
    """The servers of ``secmon up``."""

    settings: Settings = field(default_factory=get_settings)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _asked_to_stop: bool = False

    def run(self, say: Callable[[str], None]) -> None:
        """Start everything, say each address, wait for a signal, stop everything.

        Raises:
            ConflictError: another one runs on this home folder, or a port is taken.
            SecmonError: a server ended by itself; its last lines of log are in the message.
        """
        with self._alone():
            services = self._services()
            self._check_ports(services)
            _adopt_orphans()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._stop_soon)
            try:
                for service in services:
                    self._start(service)
                    self._wait_until_ready(service)
                    if service.loads is not None and not self._asked_to_stop:
                        service.loads()
                    if not self._asked_to_stop:
                        say(f"{service.name:<12} {service.address}")
                self._write_state(services)
                say("ready; Ctrl-C stops everything")
                while not self._asked_to_stop:
                    time.sleep(0.2)
                    self._check_alive()
            finally:
                self._stop()

    # --- one at a time ----------------------------------------------------------------------------

    @property
    def _run_directory(self) -> Path:
        return self.settings.home.resolve() / "run"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._run_directory / "up.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(self._where_the_other_is()) from None
            yield

    def _where_the_other_is(self) -> str:
        try:
            state = json.loads((self._run_directory / "up.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return "Another `secmon up` is starting on this home folder"
        return f"`secmon up` is already running (pid {state['pid']}): " + ", ".join(
            f"{name} {address}" for name, address in state["addresses"].items()
        )

    def _write_state(self, services: list[Service]) -> None:
        state = {"pid": os.getpid(), "addresses": {s.name: s.address for s in services}}
        (self._run_directory / "up.json").write_text(json.dumps(state))

    # --- what runs --------------------------------------------------------------------------------

    def _services(self) -> list[Service]:
        home, host = self.settings.home.resolve(), self.settings.bind_host
        code_socket = self._socket()
        workspace = self._run_directory / "workspace.yaml"
        grpc = {"socket": str(code_socket), "location_name": "secmon_dagster"}
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": grpc}]}))
        scripts = Path(sys.executable).parent
        ui = f"http://{host}:{self.settings.webserver_port}"
        api = f"http://{host}:{self.settings.api_port}"
        metrics = f"http://{host}:{self.settings.metrics_port}/metrics"
        return [
            Service(
                "code server",
                [
                    str(scripts / "dagster"),
                    "code-server",
                    "start",
                    "-m",
                    MODULE,
                    "--socket",
                    str(code_socket),
                ],
                str(code_socket),
                lambda: _grpc_answers(code_socket),
                loads=lambda: _require_definitions(code_socket),
            ),
            Service(
                "Dagster UI",
                [
                    str(scripts / "dagster-webserver"),
                    "-h",
                    host,
                    "-p",
                    str(self.settings.webserver_port),
                    "-w",
                    str(workspace),
                ],
                ui,
                lambda: _http_answers(f"{ui}/server_info"),
                "webserver_port",
            ),
            Service(
                "daemon",
                [str(scripts / "dagster-daemon"), "run", "-w", str(workspace)],
                f"runs, schedules and sensors; log in {home / 'logs' / 'daemon.log'}",
                lambda: True,
            ),
            Service(
                "signer",
                [str(scripts / "secmon"), "audit", "checkpoint", "--watch"],
                f"signs the audit chain with {self._signing_key()}; log in {self._log('signer')}",
                # It has said what it signed, or why it refuses: a chain that contradicts its past
                # must not keep what raises the alarm from running.
                lambda: self._log("signer").stat().st_size > 0,
            ),
            Service(
                "REST API",
                [str(scripts / "secmon"), "api", "serve"],
                f"{api}/openapi.json",
                lambda: _http_answers(f"{api}/healthz"),
                "api_port",
            ),
            Service(
                "metrics",
                [str(scripts / "secmon"), "metrics", "serve"],
                metrics,
                lambda: _http_answers(metrics),
                "metrics_port",
            ),
        ]

    def _signing_key(self) -> str:
        if self.settings.audit_signing_key is not None:
            return variable_of("audit_signing_key")
        return str(key_file(self.settings).resolve())

    def _socket(self) -> Path:
        """A Unix socket's path has at most 107 bytes."""
        path = self._run_directory / "code.sock"
        if len(os.fsencode(path)) > 100:
            raise SecmonError(
                f"{path} is too long for a Unix socket; allowed: 100 bytes",
                hint="Point SECMON_HOME to a folder with a shorter path.",
            )
        path.unlink(missing_ok=True)
        return path

    def _check_ports(self, services: list[Service]) -> None:
        for service in services:
            if service.setting is None:
                continue
            port: int = getattr(self.settings, service.setting)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.settings.bind_host, port))
                except OSError as taken:
                    variable = variable_of(service.setting)
                    raise ConflictError(
                        f"Port {port} of {self.settings.bind_host} for the {service.name} "
                        f"can't be used: {taken.strerror}",
                        hint=f"Set {variable} to a free one.",
                    ) from None

    # --- life and death ---------------------------------------------------------------------------

    def _start(self, service: Service) -> None:
        if self._asked_to_stop:
            return
        self._log(service.name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._log(service.name).open("wb") as log:
            self._running[service.name] = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
                preexec_fn=die_with_parent,
            )

    def _log(self, name: str) -> Path:
        return self.settings.home.resolve() / "logs" / f"{name.replace(' ', '-')}.log"

    def _wait_until_ready(self, service: Service) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._asked_to_stop and not service.ready():
            self._check_alive()
            if time.monotonic() > deadline:
                raise SecmonError(
                    f"The {service.name} isn't ready after {START_SECONDS:.0f} s:\n"
                    + self._last_lines(service.name)
                )
            time.sleep(0.1)

    def _check_alive(self) -> None:
        for name, process in self._running.items():
            code = process.poll()
            if code is not None and not self._asked_to_stop:
                raise SecmonError(
                    f"The {name} ended with exit code {code}:\n" + self._last_lines(name)
                )

    def _last_lines(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-15:])

    def _stop_soon(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def _stop(self) -> None:
        """SIGTERM in reverse order, then SIGKILL to all that is left of our tree."""
        self._asked_to_stop = True
        (self._run_directory / "up.json").unlink(missing_ok=True)
        for process in reversed(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        psutil.wait_procs(_tree(), timeout=STOP_SECONDS)
        left = _tree()
        for straggler in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)


def _tree() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _adopt_orphans() -> None:
    """Run workers whose parent ended become ours, so that stopping finds them (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """For ``preexec_fn``: if we are killed with SIGKILL, the child gets this signal (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)


def _http_answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code < 500
    except httpx.HTTPError:
        return False


def _require_definitions(socket_path: Path) -> None:
    """A code server also answers when it could load nothing; then no schedule or sensor ticks."""
    from secmon_dagster.orchestration.dagster_internals import load_error_of_code_server

    reason = load_error_of_code_server(socket_path)
    if reason is not None:
        raise SecmonError(
            f"The definitions can't be loaded: {reason}",
            hint="`dagster definitions validate` shows where; mend it and start again.",
        )


def _grpc_answers(socket_path: Path) -> bool:
    from secmon_dagster.orchestration.dagster_internals import code_server_answers

    return socket_path.exists() and code_server_answers(socket_path)
