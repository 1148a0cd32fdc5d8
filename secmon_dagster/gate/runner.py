"""Run one security script on one artifact, boxed, and read its verdict."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.gate.isolation import Isolation
from secmon_dagster.gate.sandbox import (
    Confinement,
    Ended,
    Warm,
    available,
    run_confined,
    strongest_isolation,
)
from secmon_dagster.gate.scripts import (
    SCANNER_FOLDER,
    InterpreterMissingError,
    Script,
    ScriptMissingError,
    find_script,
    script_arguments,
    stamps_of,
)
from secmon_dagster.gate.verdict import (
    EXIT_NO_INTERPRETER,
    EXIT_SCRIPT_ERROR,
    EXIT_TIMEOUT,
    MonitoringResult,
    read_output,
)
from secmon_dagster.settings import bundled_scripts, get_settings

DEFAULT_SCRIPT = "default_check.py"
WARM_CHECKS = ("default_check.py", "size_limit_check.py", "content_check.py")
BUNDLED_FOLDER = bundled_scripts().resolve()
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
        plan = _plan(script, folder)
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
    seen = () if path is None else (Path(path).absolute(),)
    try:
        with _empty_folder() as own:
            confinement = Confinement(
                plan.isolation,
                Path(own),
                readable=seen if plan.warm else (folder.resolve(), SCANNER_FOLDER, *seen),
                environment={"PATH": SCRIPT_PATH, "LANG": "C.UTF-8", "TMPDIR": own},
                timeout=timeout,
                max_output=max_output,
            )
            ended = run_confined([*plan.command, *arguments], confinement, warm=plan.warm)
    except OSError as refused:
        return failed(EXIT_SCRIPT_ERROR, f"Security script {script.name}: {refused}", script)
    try:
        # What is warm is not opened again.
        unchanged = plan.warm is not None or find_script(script_name, folder) == script
    except ScriptMissingError:
        unchanged = False
    if not unchanged:
        return failed(EXIT_SCRIPT_ERROR, f"Security script {script.name} changed while it ran")
    return _result(artifact_id, script, ended, max_output, timeout, plan.isolation)


@contextlib.contextmanager
def _empty_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="secmon-check-")
    try:
        yield folder
    finally:
        try:
            os.rmdir(folder)  # noqa: PTH106 - as good as always: most scripts leave nothing
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Plan:
    """How a script is run: warm (its own path is the command) or by its interpreter."""

    command: list[str]
    isolation: Isolation
    warm: Warm | None = None


def _plan(script: Script, folder: Path) -> _Plan:
    """Bundled checks are forked warm, under Landlock; all else runs as shut in as can be.

    Raises:
        InterpreterMissingError, ScriptMissingError: it can't be run.
        OSError: this machine can't isolate as demanded.
    """
    demanded = Isolation(get_settings().gate_min_isolation)
    warm_levels = [level for level in (Isolation.LANDLOCK, Isolation.USERNS) if level >= demanded]
    if script.name in WARM_CHECKS and script.path.parent == BUNDLED_FOLDER:
        for level in warm_levels:
            if available(level):
                stamps = tuple(stamps_of(f"{BUNDLED_FOLDER}/{name}") for name in WARM_CHECKS)
                return _Plan([str(script.path)], level, _warm(level, stamps))
    command, strongest = script.command(), strongest_isolation()
    if strongest < demanded:
        raise OSError(
            f"SECMON_GATE_MIN_ISOLATION demands {demanded}, this machine offers {strongest}"
        )
    return _Plan(command, strongest)


@lru_cache(maxsize=8)
def _warm(level: Isolation, stamps: tuple[object, ...]) -> Warm:
    """The bundled checks as they are now; ``stamps`` change with them."""
    scripts = [find_script(name, BUNDLED_FOLDER) for name in WARM_CHECKS]
    return Warm(
        tuple(str(found.path) for found in scripts),
        (str(BUNDLED_FOLDER), str(SCANNER_FOLDER)),
        level,
        "".join(found.digest for found in scripts),
    )


def _result(
    artifact_id: str, script: Script, ended: Ended, max_output: int, timeout: float, isolation: str
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
        isolation=isolation,
        script_digest=script.digest,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
