"""``run_boxed``: programs and functions in a box, on every back end this machine has."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import boxed_functions

from secmon_dagster.errors import EnforcementUnavailableError, InvalidInputError
from secmon_dagster.limits import ResourceLimits, Severity, ViolationType, run_boxed
from secmon_dagster.limits.capabilities import probe
from secmon_dagster.limits.proc import stat_of

PYTHON = sys.executable
MB = 1024 * 1024
needs_namespaces = pytest.mark.skipif(
    not (probe().network_namespaces and probe().seccomp_notify),
    reason="no network namespaces or no system-call filters here",
)


def python(code: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", code]


def test_exit_code_and_both_outputs_come_back(backend):
    result = run_boxed(["sh", "-c", "echo out; echo err >&2; exit 3"], backend=backend)
    assert (result.exit_code, result.signal) == (3, None)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert result.enforcement == backend.name
    assert result.violation is None


def test_standard_input_environment_and_folder_are_the_given_ones(backend, tmp_path):
    result = run_boxed(
        ["/bin/sh", "-c", "cat; echo $ONLY; pwd; echo ${HOME-unset}"],
        backend=backend,
        stdin=b"in\n",
        env={"ONLY": "this"},
        cwd=tmp_path,
    )
    assert result.stdout.decode().split() == ["in", "this", str(tmp_path), "unset"]


def test_a_function_of_a_module_runs_in_a_box(backend):
    assert run_boxed(boxed_functions.says_hello, backend=backend).stdout == b"hello\n"


def test_a_function_that_raises_exits_with_one_and_its_traceback(backend):
    result = run_boxed(boxed_functions.raises, backend=backend)
    assert result.exit_code == 1
    assert b"ValueError: on purpose" in result.stderr


def test_a_local_function_is_refused_with_what_to_do():
    with pytest.raises(InvalidInputError) as refused:
        run_boxed(lambda: None)
    assert "module" in str(refused.value.hint)


def test_a_missing_program_is_named(backend):
    with pytest.raises(InvalidInputError, match="/no/such/program"):
        run_boxed(["/no/such/program"], backend=backend)


def test_output_beyond_the_cap_is_dropped_and_said_so(backend):
    result = run_boxed(["sh", "-c", "yes | head -c 3000000"], backend=backend, max_output=1000)
    assert len(result.stdout) == 1000
    assert result.truncated
    assert result.exit_code == 0


def test_a_program_over_its_memory_is_ended_with_the_proof(backend):
    result = run_boxed(
        python(f"x = bytearray({300 * MB})\nimport time; time.sleep(30)"),
        ResourceLimits.of(memory="64MiB", time=20),
        backend=backend,
    )
    assert result.signal == 9
    assert result.violation.type is ViolationType.MEMORY_LIMIT_EXCEEDED
    assert result.violation.severity is Severity.HIGH
    assert result.violation.limit == 64 * MB
    assert result.violation.evidence["under_oom"] or result.violation.evidence["oom_kill"]


def test_control_groups_let_nothing_pass_the_memory_limit(hard_backend):
    result = run_boxed(
        python("k = []\nwhile True: k.append(bytearray(1 << 20))"),
        ResourceLimits.of(memory="64MiB", time=20),
        backend=hard_backend,
    )
    assert result.violation.observed <= 64 * MB
    assert result.usage.peak_memory_bytes <= 64 * MB


def test_files_in_memory_count(hard_backend):
    target = f"/dev/shm/secmon-test-{os.getpid()}"
    try:
        result = run_boxed(
            ["dd", "if=/dev/zero", f"of={target}", "bs=1M", "count=300"],
            ResourceLimits.of(memory="64MiB", time=20),
            backend=hard_backend,
        )
    finally:
        Path(target).unlink(missing_ok=True)
    assert result.violation.type is ViolationType.MEMORY_LIMIT_EXCEEDED


def test_memory_that_is_only_watched_is_not_ended(hard_backend):
    result = run_boxed(
        python(f"x = bytearray({200 * MB})"),
        ResourceLimits.of(memory="64MiB", enforce_memory=False),
        backend=hard_backend,
    )
    assert result.exit_code == 0
    assert result.violation is None


def test_a_program_over_its_time_is_asked_and_then_ended(backend):
    polite = run_boxed(["sleep", "30"], ResourceLimits.of(time=0.3), backend=backend)
    assert (polite.signal, polite.violation.type) == (15, ViolationType.TIME_LIMIT_EXCEEDED)
    deaf = run_boxed(
        ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        ResourceLimits.of(time=0.3),
        backend=backend,
        grace=0.2,
    )
    assert (deaf.signal, deaf.violation.type) == (9, ViolationType.TIME_LIMIT_EXCEEDED)
    assert deaf.violation.observed >= 0.3


def test_a_time_limit_that_is_only_watched_is_a_warning(backend):
    limits = ResourceLimits.of(time=0.1, enforce_time=False)
    result = run_boxed(["sleep", "0.3"], limits, backend=backend)
    assert result.exit_code == 0
    [warning] = result.warnings
    assert (warning.type, warning.severity) == (
        ViolationType.TIME_LIMIT_EXCEEDED,
        Severity.MEDIUM,
    )


def test_too_many_processes_end_the_box(backend):
    result = run_boxed(
        ["sh", "-c", "for i in $(seq 60); do sleep 20 & done; wait"],
        ResourceLimits.of(processes=20, time=30),
        backend=backend,
    )
    assert result.violation.type is ViolationType.UNAUTHORIZED_ACCESS
    assert result.violation.severity is Severity.CRITICAL
    assert result.violation.unit == "processes"


def test_what_a_program_leaves_running_ends_with_it(backend, tmp_path):
    mark = tmp_path / "pid"
    run_boxed(["sh", "-c", f"(setsid sleep 300 & echo $! > {mark}) & sleep 0.2"], backend=backend)
    left = stat_of(int(mark.read_text()))
    # Who is dead may still wait for its adoptive parent to take notice.
    assert left is None or left.state == "Z"


@needs_namespaces
@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("socket.socket().connect(('192.0.2.1', 80))", "AF_INET"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "AF_INET"),
        ("socket.getaddrinfo('name.example', 80)", "AF_INET"),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", "AF_INET6"),
        ("socket.socket(socket.AF_UNIX).connect(chr(0) + 'abstract')", "AF_UNIX"),
    ],
    ids=["tcp", "udp", "dns", "ipv6", "abstract"],
)
def test_each_way_to_the_network_is_refused_and_told(backend, code, family):
    result = run_boxed(python(f"import socket; {code}"), network=False, backend=backend)
    assert result.violation.type is ViolationType.UNAUTHORIZED_ACCESS
    assert result.violation.severity is Severity.CRITICAL
    assert family in result.violation.message


@needs_namespaces
def test_refused_attempts_that_are_only_watched_let_the_program_go_on(backend):
    code = (
        "import socket\ntry: socket.socket().connect(('192.0.2.1', 80))\nexcept OSError: print(1)"
    )
    limits = ResourceLimits.of(network=False, enforce_network=False)
    result = run_boxed(python(code), limits, backend=backend)
    assert (result.exit_code, result.stdout) == (0, b"1\n")
    assert result.warnings[0].type is ViolationType.UNAUTHORIZED_ACCESS


@needs_namespaces
def test_sockets_between_its_own_processes_stay_open_without_network(backend):
    code = "import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1).decode())"
    result = run_boxed(python(code), network=False, backend=backend)
    assert (result.stdout, result.violation) == (b"x\n", None)


def test_a_hard_limit_that_can_not_be_had_is_refused():
    with pytest.raises(EnforcementUnavailableError, match="hard limits"):
        run_boxed(["true"], backend="sampled", require_hard_limits=True)


def test_no_group_is_left_behind(hard_backend):
    run_boxed(["true"], backend=hard_backend)
    assert [entry for folder in hard_backend.folders() for entry in folder.glob("run-*")] == []


def test_many_boxes_at_once_do_not_disturb_each_other(hard_backend):
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> bytes:
        return run_boxed(["echo", str(number)], backend=hard_backend).stdout

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(24))) == [f"{n}\n".encode() for n in range(24)]


def test_a_program_goes_when_its_call_is_interrupted(backend, tmp_path):
    place = tmp_path / "pid"

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_boxed(["sh", "-c", f"sleep 60 & echo $! > {place}; wait"], backend=backend)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    left = stat_of(int(place.read_text()))
    assert left is None or left.state == "Z"
