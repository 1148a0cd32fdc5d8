"""The platform as a person sees it: `secmon up` in a folder of its own, and a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from secmon_dagster.settings import PROJECT_ROOT
from tests.programs import program

ARTIFACTS = Path("test-artifacts")
PARTS = ("secmon_dagster", "sql", "security_scripts", "dagster.yaml", "pyproject.toml")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class RunningPlatform:
    process: subprocess.Popen[str]
    environment: dict[str, str]
    ui: str
    lines: list[str]


def start_platform(home: Path, folder: Path | None = None, **given: str) -> RunningPlatform:
    """``secmon up`` in a folder, with that SECMON_HOME and further environment variables."""
    ports = {
        name: str(free_port())
        for name in ("SECMON_WEBSERVER_PORT", "SECMON_API_PORT", "SECMON_METRICS_PORT")
    }
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SECMON_", "DAGSTER_"))},
        **ports,
        "SECMON_HOME": str(home),
        **given,
    }
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "secmon"), "up"],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("ready"):
            break
    else:
        pytest.fail("secmon up ended:\n" + "\n".join(lines))
    ui = f"http://127.0.0.1:{ports['SECMON_WEBSERVER_PORT']}"
    return RunningPlatform(process, environment, ui, lines)


def stop_platform(platform: RunningPlatform, number: int = signal.SIGTERM) -> int:
    platform.process.send_signal(number)
    return platform.process.wait(timeout=60)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """pytest's own temporary paths are too long for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="secmon") as folder:
        yield Path(folder) / "h"


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    with tempfile.TemporaryDirectory(prefix="secmon") as folder:
        running = start_platform(Path(folder) / "h")
        yield running
        assert stop_platform(running, signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium")
    driver = program("chromedriver", "chromium-driver")
    with tempfile.TemporaryDirectory(prefix="chromium") as profile:
        for argument in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1500,1000",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        yield chrome
        chrome.quit()


def screenshot(chrome: webdriver.Chrome, name: str) -> None:
    """Kept as test artifacts, and shown in the README."""
    ARTIFACTS.mkdir(exist_ok=True)
    time.sleep(1.0)  # let the page's animations settle
    chrome.save_screenshot(str(ARTIFACTS / f"{name}.png"))


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A copy of the project that the test may add YAML to."""
    with tempfile.TemporaryDirectory(prefix="secmon") as folder:
        for name in PARTS:
            source = PROJECT_ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(folder) / name)
        yield Path(folder)
