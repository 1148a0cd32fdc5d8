"""Each admitted name of the installed libraries is harmless: called and given any state, under an
audit hook, it runs no code, starts nothing, opens nothing, connects nowhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from secmon_dagster.gate.scanner.imports import Standing, load_policy
from secmon_dagster.settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def swept():
    done = subprocess.run(
        [sys.executable, "-m", "tests.gate.scanner.sweep"],
        capture_output=True, text=True, timeout=200, check=False, cwd=PROJECT_ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_admitted_name_executes_opens_or_connects(swept):
    assert swept["broken"] == []


def test_the_sweep_calls_what_it_claims_to(swept):
    assert swept["targets"] > 600
    assert swept["called"] > 500


@pytest.mark.parametrize(
    "name",
    ["sklearn.base.clone", "scipy.stats._continuous_distns.norm_gen", "numpy.testing.Tester",
     "joblib.memory.Memory", "torch.storage._load_from_bytes", "sklearn.utils._testing.TempMemmap",
     "os.environ", "__main__.run", "a-b.C", "sklearn.svm.os.system"],
)  # fmt: skip
def test_what_was_not_vetted_is_refused(name):
    module, _, attribute = name.rpartition(".")
    assert load_policy().judge(module, attribute).standing is Standing.REFUSED


def test_a_projects_own_class_is_unknown_until_an_operator_allows_it():
    assert load_policy().judge("acme.models", "Scaler").standing is Standing.UNKNOWN
    assert load_policy(strict=True).judge("acme.models", "Scaler").standing is Standing.REFUSED
    allowed = load_policy(["acme.models.Scaler"])
    assert allowed.judge("acme.models", "Scaler").standing is Standing.ALLOWED


def test_an_addition_that_is_no_name_is_refused():
    with pytest.raises(ValueError, match=r"package\.module\.Name"):
        load_policy(["os system"])
