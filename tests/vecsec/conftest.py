"""The base detector, and public prompt data where there is some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secmon_dagster.vecsec import DetectorModel, SecAgent, TrainingRow, read_rows

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts"


@pytest.fixture(scope="session")
def model(base_detector: DetectorModel) -> DetectorModel:
    return base_detector


@pytest.fixture(scope="session")
def agent(model: DetectorModel) -> SecAgent:
    return SecAgent(model)


@pytest.fixture(scope="session")
def prompts() -> dict[str, list[TrainingRow]]:
    """The public prompt data by file, where the machine has it."""
    folder = Path(os.environ.get("SECMON_PROMPT_DATA", _BESIDE))
    if not folder.is_dir():
        pytest.skip(f"no prompt data in {folder}; set SECMON_PROMPT_DATA to a folder that has it")
    return {file.stem: read_rows([file]) for file in sorted(folder.glob("*.jsonl"))}
