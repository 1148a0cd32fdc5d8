"""The program of a run's zygote: get warm, then fork steps.

Started by :func:`start_zygote`, in a session of its own, so that what ends the run's process group
doesn't end the one that must clean up after it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import DagsterInstance

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.limits.entry import outlive_parent
from secmon_dagster.limits.forks import serve
from secmon_dagster.limits.zygote import Control, Zygote
from secmon_dagster.orchestration.dagster_internals import write_logs_to_files_only
from secmon_dagster.orchestration.executor.run_spec import RunSpec
from secmon_dagster.settings import get_settings

if TYPE_CHECKING:
    from secmon_dagster.orchestration.executor.step_process import StepProcess

# Modules a step imports on its way that loading the job doesn't: 0.2 s a step if left to it.
_LAZY_MODULES = (
    "asyncio",
    "dagster._core.execution.plan.execute_step",
    "dagster._core.storage.fs_io_manager",
    "secmon_dagster.orchestration.executor.step_process",
)

_REHEARSALS = 10
"""Python has learned an instruction's types after eight times."""

# Importing takes seconds in which nobody listens whether the run still lives, so the kernel does.
_BOOTSTRAP = (
    "import json, os, sys; sys.path[:] = json.loads(sys.argv[3]); os.chdir(sys.argv[4]);"
    "from secmon_dagster.limits.entry import die_with_parent;"
    "die_with_parent(int(sys.argv[5]));"
    "from secmon_dagster.orchestration.executor.zygote_main import main;"
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


def start_zygote(spec: RunSpec) -> Zygote:
    """Start a zygote for a run; it says when it is warm, or which module can't be loaded and why.

    Raises:
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair()
    with theirs, tempfile.TemporaryFile() as document:
        document.write(spec.to_json())
        document.flush()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _BOOTSTRAP),
                *(str(theirs.fileno()), str(document.fileno())),
                *(json.dumps(spec.path), spec.working_directory, str(os.getpid())),
            ],
            pass_fds=(theirs.fileno(), document.fileno()),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **_sort_environment()},
        )
    # The zygote is waited for by its pid; a Popen that is collected would warn about it.
    process.returncode = 0
    return Zygote(ours, process.pid)


def _sort_environment() -> dict[str, str]:
    """numpy picks its sort when it is imported, so the choice is made before the zygote is.

    Only in a run that has loaded the drift package anyway: importing it here would bring pandas
    into every run, a second in its process and another in its zygote.
    """
    if "secmon_dagster.drift" not in sys.modules:
        return {}
    from secmon_dagster.drift.fast_sort import remembered_sort_environment

    return remembered_sort_environment(get_settings().home / "cache")


def main(link_fd: int, spec_fd: int) -> None:
    """Be the zygote; returns when the run's process is gone or done."""
    link = socket.socket(fileno=link_fd)
    for descriptor in (link_fd, spec_fd):
        os.set_inheritable(descriptor, False)
    try:
        with os.fdopen(spec_fd, "rb") as source:
            source.seek(0)
            spec = RunSpec.from_json(source.read())
        handler = warm_up(spec)
    except Exception as failed:
        # Whatever user code raises on import; the run's process reports it.
        reason = f"{type(failed).__name__}: {failed}"
        Control(link).send({"op": "ready", "error": f"the job could not be loaded: {reason}"})
        raise
    # From here on the closing link tells of the run's end, and its steps are to be cleaned up.
    outlive_parent()
    serve(
        link,
        handler,
        folders=[Path(name) for name in spec.folders],
        guard=spec.guard,
        rehearse=handler.rehearse,
    )


def warm_up(spec: RunSpec) -> StepProcess:
    """Import and build all that steps share; returns what runs one of them."""
    for module in spec.preload_modules:
        try:
            importlib.import_module(module)
        except ImportError as missing:
            raise InvalidInputError(
                f"preload_modules: {module!r} can't be imported: {missing}"
            ) from missing
    for module in _LAZY_MODULES:
        importlib.import_module(module)
    if spec.capture_compute_logs:
        write_logs_to_files_only()
    home = spec.job.get_module()
    if home is not None:
        # Dagster's loader leaves out the first entry of the path, the folder of a script that
        # called it; a module found only there is in sys.modules of the run's process, so let it be
        # in ours. Where this fails, the loader says why.
        with contextlib.suppress(ImportError):
            importlib.import_module(home)
    instance = DagsterInstance.from_ref(spec.instance)
    from secmon_dagster.orchestration.executor.step_process import StepProcess

    handler = StepProcess(spec, instance)
    for _ in range(_REHEARSALS):
        # Loads the job and, on the way, everything a plan needs.
        handler.rehearse()
    return handler
