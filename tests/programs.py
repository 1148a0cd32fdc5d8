"""Programs that come from the system's packages, not from PyPI."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The program's path; skips the test where it is missing, but fails it in CI, which installs
    it."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} isn't installed (Debian package {package})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
