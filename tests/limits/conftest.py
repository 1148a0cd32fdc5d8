"""Back ends that can be tried on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from secmon_dagster.limits import probe
from secmon_dagster.limits.backends import Backend
from secmon_dagster.limits.capabilities import open_backend

CAPABILITIES = probe()
BACKENDS = [*([CAPABILITIES.backend] if CAPABILITIES.hard_limits else []), "sampled"]

# For what holds only of processes in control groups.
GROUPED = pytest.mark.parametrize(
    "backend",
    BACKENDS[:-1]
    or [pytest.param("none", marks=pytest.mark.skip("this machine lends us no control groups"))],
    indirect=True,
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    opened = open_backend(request.param)
    yield opened
    opened.close()


@pytest.fixture
def hard_backend() -> Iterator[Backend]:
    if not CAPABILITIES.hard_limits:
        pytest.skip("this machine lends us no control groups")
    opened = open_backend(require_hard_limits=True)
    yield opened
    opened.close()
