"""``secmon gate`` as people call it."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import skops.io
from sklearn.dummy import DummyClassifier
from typer.testing import CliRunner

from secmon_dagster.cli.gate import app
from secmon_dagster.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from secmon_dagster.settings import get_settings


class Innocent:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def secmon():
    def call(*words: str, code: int = 0, user: str = "ann") -> str:
        os.environ["SECMON_USER"] = user
        get_settings.cache_clear()
        done = CliRunner().invoke(app, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    yield call
    os.environ.pop("SECMON_USER", None)


@pytest.fixture
def folder(tmp_path):
    skops.io.dump(DummyClassifier().fit([[0], [1]], [0, 1]), tmp_path / "good.skops")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Innocent()))
    return tmp_path


def test_a_good_file_is_exit_code_0_and_a_folder_with_a_bad_one_2(secmon, folder):
    assert "allowed" in secmon("check", str(folder / "good.skops"))
    told = secmon("check", str(folder), code=2)
    assert "posix.system" in told


def test_json_and_sarif_hold_the_findings(secmon, folder):
    told = json.loads(secmon("check", str(folder), "--format", "json", code=2))
    assert [entry["action"] for entry in told] == ["blocked", "allowed"]
    sarif = json.loads(secmon("check", str(folder), "-f", "sarif", code=2))
    assert sarif["version"] == "2.1.0"
    (found,) = sarif["runs"][0]["results"]
    assert (found["ruleId"], found["level"]) == ("import", "error")


def test_an_import_can_be_admitted_for_one_call(secmon, tmp_path):
    path = tmp_path / "own.pkl"
    path.write_bytes(b"\x80\x02cacme.models\nscale\n.")
    secmon("check", str(path), code=2)
    secmon("check", str(path), "--allow", "acme.models.scale")


def test_what_is_no_file_is_an_error_that_names_it(secmon, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        secmon("check", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInputError, match="/dev/null"):
        secmon("check", "/dev/null")
    with pytest.raises(InvalidInputError, match="os system"):
        secmon("check", str(tmp_path), "--allow", "os system")


def test_a_file_name_cant_drive_the_terminal(secmon, tmp_path):
    (tmp_path / "x\x1b[2J.csv").write_text("a\n1\n")
    assert "\x1b" not in secmon("check", str(tmp_path))


def test_register_approve_and_history(secmon, folder, database):
    artifact = secmon("register", str(folder / "good.skops"), "--require-approval").strip()
    secmon("rescan", artifact)
    approval = secmon("request", artifact, "--reason", "launch", user="bob").strip()
    assert approval in secmon("approvals", "--state", "pending")
    for user in ("bob", "ann"):
        with pytest.raises(PermissionDeniedError):
            secmon("approve", approval, user=user)
    assert "approved" in secmon("approve", approval, user="eve")
    assert "revoked" in secmon("revoke", approval, user="eve")
    assert artifact in secmon("history")


def test_a_policy_change_needs_a_new_verdict_and_is_in_the_audit_outbox(secmon, folder, database):
    artifact = secmon("register", str(folder / "good.skops")).strip()
    secmon("rescan", artifact)
    assert secmon("rescan") == ""
    secmon("policy", "allow", "acme.models.Scaler")
    assert json.loads(secmon("policy", "show"))["allow"] == ["acme.models.Scaler"]
    assert artifact in secmon("rescan")
    with database.admin() as sql:
        told = sql.execute("SELECT action FROM secmon.audit_outbox").fetchall()
    assert ("gate.policy_changed",) in told


@pytest.mark.parametrize(
    ("key", "value"), [("script_timeout_ms", "-1"), ("allow", "{}"), ("unknown_classes", "maybe")]
)
def test_a_policy_value_that_cant_be_read_is_refused(secmon, database, key, value):
    from secmon_dagster.errors import GateMisconfiguredError

    with pytest.raises(GateMisconfiguredError, match=key):
        secmon("policy", "set", key, "--", value)
    with pytest.raises(NotFoundError, match="no key"):
        secmon("policy", "set", "nothing", "1")
