from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from secmon_dagster.audit.witness import FileWitness
from tests.ui.conftest import start_platform, stop_platform

SECMON = str(Path(sys.executable).parent / "secmon")


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes that name the home folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(home) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def test_the_platform_comes_up_and_goes_down_leaving_no_process(short_home):
    platform = start_platform(short_home)
    family = psutil.Process(platform.process.pid).children(recursive=True)
    assert [line.split("  ")[0] for line in platform.lines[:5]] == [
        "PostgreSQL",
        "code server",
        "Dagster UI",
        "daemon",
        "signer",
    ]
    assert f"signs the audit chain with {short_home}/keys/audit.key;" in platform.lines[4]
    # The daemon's sensor, which runs already, may have been first.
    said = (short_home / "logs" / "signer.log").read_text()
    assert said.startswith(("signed: ", "nothing new: ")), said
    assert FileWitness(short_home / "witness" / "checkpoints.jsonl").notes()
    second = subprocess.run(
        [SECMON, "up"], env=platform.environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"already running (pid {platform.process.pid})" in second.stderr
    assert platform.ui in second.stderr
    assert stop_platform(platform, signal.SIGINT) == 0
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert processes_of(short_home) == []


def test_definitions_that_do_not_load_are_told_instead_of_serving_nothing(
    short_home, monkeypatch, project
):
    folder = project / "secmon_dagster" / "defs" / "models" / "monitor"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        "type: secmon_dagster.DriftMonitor\nattributes: {monitor_id: churn}\n"
    )
    monkeypatch.setenv("SECMON_HOME", str(short_home))
    monkeypatch.setenv("PYTHONPATH", str(project))
    done = subprocess.run([SECMON, "up"], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The definitions can't be loaded" in done.stderr
    assert "monitor_id" in done.stderr
    assert "ready" not in done.stdout
    assert processes_of(short_home) == []


def test_a_port_in_use_is_one_clear_sentence(short_home, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("SECMON_HOME", str(short_home))
        monkeypatch.setenv("SECMON_WEBSERVER_PORT", str(port))
        done = subprocess.run([SECMON, "up"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 for the Dagster UI can't be used" in done.stderr
    assert "Set SECMON_WEBSERVER_PORT to a free one" in done.stderr
    assert processes_of(short_home) == []
