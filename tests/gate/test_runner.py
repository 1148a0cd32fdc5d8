"""Every row of the exit-code table, in Python and in node, and scripts that misbehave."""

from __future__ import annotations

import os
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.gate import Action, Isolation, Outcome, run_security_check
from secmon_dagster.gate.sandbox import available, launcher, strongest_isolation
from secmon_dagster.gate.verdict import outcome_of

SAYS = {0: "allow", 1: "warn"}
NODE = shutil.which("node")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    return folder


def run(scripts: Path, source: str, name: str = "check.py", **options):
    (scripts / name).write_text(source)
    return run_security_check(
        "a1", "model", "model", script_name=name, scripts_dir=scripts, **options
    )


def python(code: int) -> str:
    said = SAYS.get(code, "block")
    shown = f'{{"findings": [], "recommendation": "{said}"}}'
    return f"import sys\nprint('{shown}')\nsys.exit({code})"


def node(code: int) -> str:
    said = SAYS.get(code, "block")
    shown = f'{{"findings": [], "recommendation": "{said}"}}'
    return f"console.log('{shown}'); process.exit({code})"


TABLE = {
    0: (Action.ALLOWED, Outcome.ALLOW), 1: (Action.WARNED, Outcome.WARN),
    2: (Action.BLOCKED, Outcome.BLOCK), 3: (Action.BLOCKED, Outcome.BLOCK),
    77: (Action.BLOCKED, Outcome.BLOCK), 254: (Action.BLOCKED, Outcome.BLOCK),
    124: (Action.BLOCKED, Outcome.TIMEOUT), 127: (Action.ERROR, Outcome.NO_INTERPRETER),
    255: (Action.ERROR, Outcome.SCRIPT_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("code", TABLE)
def test_a_python_scripts_exit_code_is_the_tables_row(scripts, code):
    result = run(scripts, python(code))
    assert (result.action, result.outcome) == TABLE[code], result.stderr
    assert result.exit_code == code


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("code", TABLE)
def test_a_node_scripts_exit_code_is_the_tables_row(scripts, code):
    result = run(scripts, node(code), "check.js")
    assert (result.action, result.outcome) == TABLE[code], result.stderr


@pytest.mark.parametrize("code", [-9, -15, 256, 1000])
def test_signals_and_impossible_codes_are_script_errors(code):
    assert outcome_of(code) is Outcome.SCRIPT_ERROR


def test_a_script_with_a_shebang_runs_by_it(scripts):
    path = scripts / "check.sh"
    path.write_text(
        '#!/bin/sh\necho "{\\"findings\\": [], \\"recommendation\\": \\"warn\\"}"; exit 1\n'
    )
    path.chmod(0o755)
    result = run_security_check("a", "m", script_name="check.sh", scripts_dir=scripts)
    assert result.outcome is Outcome.WARN


@pytest.mark.parametrize(
    ("name", "text", "mode", "code", "said"),
    [
        ("check.sh", "#!/bin/sh\nexit 0\n", 0o644, 255, "not executable"),
        ("check.sh", "#!/usr/bin/env no-such-interpreter\n", 0o755, 127, "no-such-interpreter"),
        ("check.bin", "exit 0\n", 0o755, 255, "no known extension"),
        ("other.py", "", 0o644, 255, "not found"),
    ],
)  # fmt: skip
def test_what_cant_be_run_says_why(scripts, name, text, mode, code, said):
    path = scripts / name
    path.write_text(text)
    path.chmod(mode)
    asked = "check.py" if name == "other.py" else name
    result = run_security_check("a", "m", script_name=asked, scripts_dir=scripts)
    assert result.exit_code == code
    assert said in result.stderr


def test_node_that_is_not_installed_is_127(scripts, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = run(scripts, node(0), "check.js")
    assert (result.exit_code, result.stderr) == (127, "Node.js executable not found")


def test_a_missing_script_is_reported_in_the_documented_words(scripts):
    result = run_security_check("a", "m", script_name="default-check.js", scripts_dir=scripts)
    assert result.exit_code == 255
    assert result.stderr == "Security script not found: default-check.js"


def test_the_documented_script_names_find_the_bundled_scripts():
    result = run_security_check(
        "test456", "malware-backdoor", "model", script_name="default-check.js"
    )
    assert (result.script_name, result.action) == ("default_check.py", Action.BLOCKED)


@pytest.mark.parametrize("name", ["../x.py", "/bin/sh", "", "-c", "a\0b", "sub/../../x"])
def test_scripts_are_found_in_their_folder_only(scripts, name):
    (scripts.parent / "x.py").write_text(python(0))
    result = run_security_check("a", "m", script_name=name, scripts_dir=scripts)
    assert result.outcome is Outcome.SCRIPT_ERROR


@pytest.mark.parametrize(
    "source", ["", "print('hello')", "print('{\"findings\": [')", "print('[]')"]
)
def test_passing_without_a_readable_result_is_a_script_error(scripts, source):
    result = run(scripts, source)
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert "no JSON" in result.stderr


def test_a_recommendation_against_the_exit_code_is_a_script_error(scripts):
    result = run(scripts, python(0).replace("allow", "block"))
    assert result.outcome is Outcome.SCRIPT_ERROR


def test_output_is_cut_while_it_is_read_and_the_script_ended(scripts):
    before = psutil.Process().memory_info().rss
    result = run(scripts, "import sys\nwhile True: sys.stdout.write('y' * 65536)", timeout=20.0)
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert len(result.stdout) == 10_000
    assert result.execution_duration_ms < 15_000
    assert psutil.Process().memory_info().rss - before < 50_000_000


def test_a_script_that_never_ends_is_a_timeout_after_the_limit(scripts):
    result = run(scripts, "import time\ntime.sleep(60)", timeout=0.4)
    assert (result.exit_code, result.outcome) == (124, Outcome.TIMEOUT)
    assert "timed out after 0.4 seconds" in result.stderr


def test_a_grandchild_that_holds_stdout_does_not_hold_the_check(scripts):
    source = "import os, time\nif os.fork() == 0:\n    time.sleep(30)\n    os._exit(0)\n" + python(
        0
    )
    result = run(scripts, source, timeout=20.0)
    assert result.outcome is Outcome.ALLOW, result.stderr
    assert result.execution_duration_ms < 15_000


def test_daemons_of_a_script_are_gone_after_it(scripts):
    marker = f"secmon-daemon-{os.getpid()}-{time.monotonic_ns()}"
    source = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{marker}"])
    os._exit(0)
time.sleep(0.2)
""" + python(0)
    assert run(scripts, source, timeout=20.0).outcome is Outcome.ALLOW
    alive = [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]
    assert alive == []


def test_a_script_ended_by_a_signal_is_a_script_error(scripts):
    result = run(scripts, "import os, signal\nos.abort()")
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert "signal 6" in result.stderr


@pytest.mark.parametrize("name", ["--type", "-x", "a\nb", "'; rm -rf ~ #", "ü" * 500])
def test_values_reach_the_script_as_they_are(scripts, name):
    source = (
        "import argparse, json\np = argparse.ArgumentParser()\n"
        "for o in ('artifact-id', 'name', 'type', 'size', 'path', 'sha256', 'url', 'config'):\n"
        "    p.add_argument('--' + o)\na = p.parse_args()\n"
        "print(json.dumps({'findings': [{'message': a.name}], 'recommendation': 'allow'}))"
    )
    (scripts / "check.py").write_text(source)
    result = run_security_check("a", name, "t", script_name="check.py", scripts_dir=scripts)
    assert result.findings[0]["message"] == name, result.stderr


def test_a_name_with_nul_is_refused_by_name():
    with pytest.raises(InvalidInputError, match="artifact_name"):
        run_security_check("a", "x\0y")


ATTACKS = {
    "reads /etc/passwd": "open('/etc/passwd').read()",
    "reads the environment of its parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "writes to the artifact": "open(sys.argv[sys.argv.index('--path') + 1], 'w')",
    "writes beside its folder": "open('/var/tmp/secmon-x', 'w')",
    "connects out": "socket.create_connection(('127.0.0.1', 9), 1)",
    "opens a socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "signals its parent": "os.kill(1, 0) if os.getpid() != 2 else os.kill(99999999, 0)",
    "mounts": "ctypes.CDLL(None, use_errno=True).mount(b'a', b'/', b'tmpfs', 0, None) == 0 or 1/0",
}


# In process ids and a network of its own, there is nobody to signal, spy on or talk to.
HARMLESS = {"reads the environment of its parent", "opens a socket", "signals its parent"}
LEVELS = (Isolation.LANDLOCK, Isolation.USERNS, Isolation.BUBBLEWRAP)
CASES = [
    (level, attack)
    for level in LEVELS
    for attack in ATTACKS
    if level is not Isolation.BUBBLEWRAP or attack not in HARMLESS
]


@pytest.mark.parametrize(("level", "attack"), CASES)
def test_a_script_in_the_box_cant(scripts, tmp_path, monkeypatch, level, attack):
    if not available(level):
        pytest.skip(f"{level} is not available on this machine")
    monkeypatch.setattr("secmon_dagster.gate.runner.strongest_isolation", lambda: level)
    artifact = tmp_path / "artifact.bin"
    artifact.write_bytes(b"bytes")
    source = "import ctypes, os, socket, sys\n" + ATTACKS[attack] + "\n" + python(0)
    result = run(scripts, source, path=artifact)
    assert result.outcome is Outcome.SCRIPT_ERROR, result.stdout
    assert artifact.read_bytes() == b"bytes"


@pytest.mark.parametrize("level", [Isolation.LANDLOCK, Isolation.USERNS, Isolation.BUBBLEWRAP])
def test_a_script_in_the_box_can_read_the_artifact_and_write_its_folder(
    scripts, tmp_path, monkeypatch, level
):
    if not available(level):
        pytest.skip(f"{level} is not available on this machine")
    monkeypatch.setattr("secmon_dagster.gate.runner.strongest_isolation", lambda: level)
    artifact = tmp_path / "artifact.bin"
    artifact.write_bytes(b"bytes")
    source = (
        "import os, sys, tempfile\n"
        "assert open(sys.argv[sys.argv.index('--path') + 1]).read() == 'bytes'\n"
        "tempfile.TemporaryFile().write(b'x')\nopen('mine', 'w').write('x')\n"
        "assert set(os.environ) <= {'PATH', 'LANG', 'TMPDIR', 'PWD', 'LC_CTYPE'}, os.environ\n"
    ) + python(0)
    result = run(scripts, source, path=artifact)
    assert result.outcome is Outcome.ALLOW, result.stderr
    assert result.isolation == level


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("level", LEVELS)
def test_a_node_script_runs_in_the_box(scripts, monkeypatch, level):
    if not available(level):
        pytest.skip(f"{level} is not available on this machine")
    monkeypatch.setattr("secmon_dagster.gate.runner.strongest_isolation", lambda: level)
    result = run(scripts, node(0), "check.js")
    assert (result.outcome, result.isolation) == (Outcome.ALLOW, level), result.stderr


def test_an_isolation_that_is_refused_once_is_tried_again(monkeypatch):
    answers = [1, 0]
    monkeypatch.setattr(
        "secmon_dagster.gate.sandbox.probe.run_confined",
        lambda argv, confinement: launcher.Ended(answers.pop(0), b"", b"refused", 0.0),
    )
    assert available.__wrapped__(Isolation.USERNS)
    assert answers == []


def test_too_much_memory_ends_the_script_and_not_the_gate(scripts):
    assert run(scripts, "x = bytearray(4 << 30)\n" + python(0)).outcome is Outcome.SCRIPT_ERROR


def test_an_isolation_this_machine_lacks_is_an_error_and_no_run(scripts, monkeypatch):
    monkeypatch.setenv("SECMON_GATE_MIN_ISOLATION", "bubblewrap")
    monkeypatch.setattr("secmon_dagster.gate.runner.strongest_isolation", lambda: Isolation.RLIMITS)
    result = run(scripts, python(0))
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert "demands bubblewrap" in result.stderr


def test_the_bundled_checks_are_forked_warm_under_landlock(monkeypatch):
    if not available(Isolation.LANDLOCK):
        pytest.skip("Landlock is not available on this machine")
    assert run_security_check("a", "m").isolation == Isolation.LANDLOCK
    monkeypatch.setenv("SECMON_GATE_MIN_ISOLATION", "userns")
    from secmon_dagster.settings import get_settings

    get_settings.cache_clear()
    if available(Isolation.USERNS):
        assert run_security_check("a", "m").isolation == Isolation.USERNS


def test_the_first_checks_of_a_process_may_come_all_at_once(scripts, monkeypatch):
    """Probing the sandbox, starting the warm process and asking it happen at the same time."""
    (scripts / "own.py").write_text(python(0))

    def check(number: int):
        if number % 2:
            return run_security_check("a", "m", script_name="own.py", scripts_dir=scripts)
        return run_security_check("a", "m")

    for _ in range(3):
        monkeypatch.setattr(launcher, "_zygote", None)
        available.cache_clear()
        strongest_isolation.cache_clear()
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(check, range(16)))
        assert {result.outcome for result in results} == {Outcome.ALLOW}, results
        assert len({(r.script_name, r.isolation) for r in results}) == 2, results


def test_a_result_as_a_dict_has_the_documented_members(scripts):
    shown = run(scripts, python(2)).to_dict()
    assert {"exit_code", "action", "findings", "script_name", "stdout", "stderr"} <= set(shown)
    assert shown["action"] == "blocked"
    assert stat.S_ISREG((scripts / "check.py").stat().st_mode)
