"""Run one security script on one artifact, boxed, and read its verdict."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.gate.bounded import Ended, run_bounded
from secmon_dagster.gate.isolation import Isolation
from secmon_dagster.gate.scripts import (
    InterpreterMissingError,
    Script,
    ScriptMissingError,
    find_script,
    script_arguments,
)
from secmon_dagster.gate.verdict import (
    EXIT_NO_INTERPRETER,
    EXIT_SCRIPT_ERROR,
    EXIT_TIMEOUT,
    MonitoringResult,
    read_output,
)
from secmon_dagster.settings import get_settings

DEFAULT_SCRIPT = "default_check.py"
SCRIPT_PATH = "/usr/local/bin:/usr/bin:/bin"


def run_security_check(
    artifact_id: str,
    artifact_name: str,
    artifact_type: str = "",
    *,
    script_name: str = DEFAULT_SCRIPT,
    size: int | None = None,
    path: Path | str | None = None,
    sha256: str | None = None,
    url: str | None = None,
    config: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    max_output: int | None = None,
    scripts_dir: Path | None = None,
) -> MonitoringResult:
    """Run ``script_name`` on an artifact. Never raises for what the script does.

    Args:
        timeout: seconds; default ``MONITORING_TIMEOUT``.
        max_output: characters kept of each stream; default ``MONITORING_MAX_OUTPUT``.
        config: what the script gets as ``--config``, JSON.

    Returns:
        A result whose exit code is one of the table's: 124 for a timeout, 127 for a missing
        interpreter, 255 for a missing or failing script.

    Raises:
        InvalidInputError: an argument no program can be given (it holds NUL).
    """
    settings = get_settings()
    timeout = settings.monitoring_timeout if timeout is None else timeout
    max_output = settings.monitoring_max_output if max_output is None else max_output
    folder = settings.security_scripts_dir if scripts_dir is None else scripts_dir
    for field, value in (("artifact_id", artifact_id), ("artifact_name", artifact_name),
                         ("artifact_type", artifact_type), ("url", url)):  # fmt: skip
        if value is not None and "\0" in value:
            raise InvalidInputError.of(field, value, "text without NUL")
    started = time.monotonic()

    def failed(exit_code: int, why: str, script: Script | None = None) -> MonitoringResult:
        return MonitoringResult(
            artifact_id=artifact_id,
            script_name=script.name if script else script_name,
            exit_code=exit_code,
            stderr=why[:max_output],
            execution_duration_ms=_milliseconds(time.monotonic() - started),
            script_digest=script.digest if script else "",
        )

    try:
        script = find_script(script_name, folder)
    except ScriptMissingError as missing:
        return failed(EXIT_SCRIPT_ERROR, str(missing))
    try:
        command = script.command()
    except InterpreterMissingError as missing:
        return failed(EXIT_NO_INTERPRETER, str(missing), script)
    except (ScriptMissingError, OSError) as broken:
        return failed(EXIT_SCRIPT_ERROR, str(broken), script)
    arguments = script_arguments(
        artifact_id=artifact_id,
        name=artifact_name,
        type=artifact_type,
        size=size,
        path=None if path is None else str(path),
        sha256=sha256,
        url=url,
        config=json.dumps({"script_timeout_ms": round(timeout * 1000), **(config or {})}),
    )
    try:
        ended = _run(command + arguments, timeout, max_output)
    except OSError as refused:
        return failed(EXIT_SCRIPT_ERROR, f"Security script {script.name}: {refused}", script)
    return _result(artifact_id, script, ended, max_output, timeout)


def _run(command: list[str], timeout: float, max_output: int) -> Ended:
    with tempfile.TemporaryDirectory(prefix="secmon-check-") as folder:
        return run_bounded(
            command,
            timeout=timeout,
            max_output=4 * max_output,
            environment={
                "PATH": SCRIPT_PATH,
                "LANG": "C.UTF-8",
                "TMPDIR": folder,
            },
            folder=Path(folder),
        )


def _result(
    artifact_id: str, script: Script, ended: Ended, max_output: int, timeout: float
) -> MonitoringResult:
    stdout = ended.stdout.decode("utf-8", "replace")
    stderr = ended.stderr.decode("utf-8", "replace")
    flooded = ended.flooded or len(stdout) > max_output
    printed: dict[str, Any] = {}
    if ended.timed_out:
        exit_code = EXIT_TIMEOUT
        complaint: str | None = f"Script execution timed out after {timeout:g} seconds"
    elif flooded:
        exit_code = EXIT_SCRIPT_ERROR
        complaint = f"the script printed more than {max_output} characters"
    else:
        exit_code, printed, complaint = read_output(ended.exit_code, stdout)
    return MonitoringResult(
        artifact_id=artifact_id,
        script_name=script.name,
        exit_code=exit_code,
        stdout=stdout[:max_output],
        stderr=(f"{complaint}\n{stderr}" if complaint else stderr)[:max_output],
        execution_duration_ms=_milliseconds(ended.seconds),
        findings=tuple(f for f in printed.get("findings", []) if isinstance(f, dict)),
        recommendation=_text(printed.get("recommendation")),
        isolation=Isolation.RLIMITS,
        script_digest=script.digest,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
