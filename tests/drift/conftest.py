"""Fixtures of the drift tests."""

from __future__ import annotations

import pytest

from tests.drift_data import RecordedAudit


@pytest.fixture
def audit() -> RecordedAudit:
    return RecordedAudit()
