"""Register, check, release: what passes, what doesn't, and what is written."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import joblib
import pytest
import skops.io
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from secmon_dagster.errors import (
    ApprovalRequiredError,
    ArtifactBlockedError,
    CheckTimeoutError,
    DatabaseUnavailableError,
    EntryRefusedError,
    GateMisconfiguredError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.gate import Gatekeeper, Outcome, check_artifact_sensitivity
from secmon_dagster.settings import get_settings
from tests.conftest import Database


class Innocent:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def keeper(database: Database) -> Gatekeeper:
    return Gatekeeper()


@pytest.fixture(scope="module")
def pipelines() -> list[Pipeline]:
    features, y = make_classification(80, 5, random_state=0)
    models = (LogisticRegression(), GradientBoostingClassifier(n_estimators=5))
    return [make_pipeline(StandardScaler(), model).fit(features, y) for model in models]


@pytest.fixture
def model(tmp_path: Path, pipelines: list[Pipeline]) -> Path:
    path = tmp_path / "model.skops"
    skops.io.dump(pipelines[0], path)
    return path


def rows(database: Database, query: str = "SELECT * FROM monitoring_history ORDER BY id"):
    with database.admin() as connection:
        connection.execute("SET search_path = secmon, public")
        return connection.execute(query).fetchall()


def test_skops_pipelines_are_released(keeper, tmp_path, pipelines):
    for number, pipeline in enumerate(pipelines):
        path = tmp_path / f"{number}.skops"
        skops.io.dump(pipeline, path)
        artifact = keeper.register(path, f"model-{number}", "model", "ann")
        verdict = keeper.check(artifact.id)
        assert verdict.outcome is Outcome.ALLOW, verdict.to_dict()
        with keeper.open_released(artifact.id) as released:
            assert released.read() == path.read_bytes()


def test_a_pickle_that_calls_os_system_is_blocked_whatever_its_name(keeper, tmp_path):
    path = tmp_path / "quarterly-forecast.pkl"
    path.write_bytes(pickle.dumps(Innocent()))
    artifact = keeper.register(path, "quarterly-forecast", "model", "ann")
    verdict = keeper.check(artifact.id)
    assert verdict.outcome is Outcome.BLOCK
    assert any(found["name"] == "posix.system" for found in verdict.findings)
    with pytest.raises(ArtifactBlockedError, match=r"posix\.system"):
        keeper.open_released(artifact.id)


def test_a_joblib_file_is_judged_through_its_compression(keeper, tmp_path):
    path = tmp_path / "model.joblib"
    joblib.dump(Innocent(), path, compress=3)
    assert not keeper.check(keeper.register(path, "m", "model", "ann").id).allowed


def test_what_was_never_checked_is_not_released(keeper, model):
    artifact = keeper.register(model, "m", "model", "ann")
    with pytest.raises(ArtifactBlockedError, match="no verdict"):
        keeper.open_released(artifact.id)


def test_a_file_swapped_after_its_verdict_is_not_released(keeper, model):
    artifact = keeper.register(model, "m", "model", "ann")
    keeper.check(artifact.id)
    model.write_bytes(pickle.dumps(Innocent()))
    with pytest.raises(ArtifactBlockedError, match="was registered"):
        keeper.open_released(artifact.id)


def test_a_file_swapped_before_its_check_is_blocked_in_the_history(keeper, model, database):
    artifact = keeper.register(model, "m", "model", "ann")
    model.write_bytes(b"other bytes")
    verdict = keeper.check(artifact.id)
    assert [found["rule"] for found in verdict.findings] == ["bytes-changed"]
    assert rows(database, "SELECT action_taken FROM monitoring_history") == [("blocked",)]


def test_what_is_released_does_not_change_while_it_is_read(keeper, model):
    good = model.read_bytes()
    artifact = keeper.register(model, "m", "model", "ann")
    keeper.check(artifact.id)
    with keeper.open_released(artifact.id) as released:
        model.write_bytes(b"x" * len(good))
        assert released.read() == good


def test_new_bytes_need_a_check_of_their_own(keeper, model, tmp_path):
    artifact = keeper.register(model, "m", "model", "ann")
    keeper.check(artifact.id)
    other = tmp_path / "other.npy"
    other.write_bytes(b"not an array")
    keeper.register(other, "m", "model", "ann", artifact_id=artifact.id)
    with pytest.raises(ArtifactBlockedError, match="no verdict"):
        keeper.open_released(artifact.id)


def test_a_changed_policy_needs_a_new_check(keeper, model, database):
    artifact = keeper.register(model, "m", "model", "ann")
    keeper.check(artifact.id)
    rows(database, "UPDATE monitoring_config SET value = 'block' WHERE key = 'unknown_classes' "
         "RETURNING key")  # fmt: skip
    with pytest.raises(ArtifactBlockedError, match="no verdict"):
        keeper.open_released(artifact.id)
    keeper.check(artifact.id)
    keeper.open_released(artifact.id).close()


def test_the_second_check_reuses_the_verdict_and_writes_its_own_row(keeper, model, database):
    artifact = keeper.register(model, "m", "model", "ann")
    first, second = keeper.check(artifact.id, user_id="bob"), keeper.check(artifact.id)
    assert second.cached_from == first.check_id
    assert len(rows(database)) == 2
    assert keeper.check(artifact.id, fresh=True).cached_from is None


def test_a_timeout_denies_and_is_not_cached(keeper, model, monkeypatch, tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "slow.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("SECURITY_SCRIPTS_DIR", str(scripts))
    monkeypatch.setenv("MONITORING_TIMEOUT", "0.3")
    get_settings.cache_clear()
    artifact = keeper.register(model, "m", "model", "ann", monitoring_script="slow.py")
    assert keeper.check(artifact.id).result.exit_code == 124
    assert keeper.check(artifact.id).cached_from is None
    with pytest.raises(CheckTimeoutError):
        keeper.open_released(artifact.id)


def test_a_missing_script_is_a_misconfigured_gate(keeper, model):
    artifact = keeper.register(model, "m", "model", "ann", monitoring_script="gone.py")
    assert keeper.check(artifact.id).result.exit_code == 255
    with pytest.raises(GateMisconfiguredError):
        keeper.open_released(artifact.id)


def test_an_artifact_that_needs_approval_waits_for_it(keeper, model):
    artifact = keeper.register(model, "m", "model", "ann", require_approval=True)
    keeper.check(artifact.id)
    with pytest.raises(ApprovalRequiredError):
        keeper.open_released(artifact.id)


def test_history_cant_be_rewritten(keeper, model, database):
    artifact = keeper.register(model, "malware", "model", "ann")
    keeper.check(artifact.id)
    for statement in ("UPDATE monitoring_history SET action_taken = 'allowed' RETURNING id",
                      "DELETE FROM monitoring_history RETURNING id"):  # fmt: skip
        with pytest.raises(Exception, match="append-only"):
            rows(database, statement)


def test_sensitivity_is_what_the_row_says(keeper, model):
    artifact = keeper.register(model, "m", "model", "ann", monitoring_script="size_limit_check.py")
    found = check_artifact_sensitivity(artifact.id)
    assert (found.is_sensitive, found.monitoring_script) == (True, "size_limit_check.py")
    assert check_artifact_sensitivity("nobody") is None


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "device", "nothing"])
def test_only_regular_files_are_taken(keeper, model, tmp_path, kind):
    path = tmp_path / "thing"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(model)
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
    with pytest.raises((InvalidInputError, NotFoundError), match=path.name):
        keeper.register(path, "m", "model", "ann")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 10_000, "\ud800"])
def test_names_that_cant_be_stored_are_refused(keeper, model, name):
    with pytest.raises(InvalidInputError, match="name"):
        keeper.register(model, name, "model", "ann")


def test_a_sparse_file_beyond_the_bound_is_refused_unread(keeper, tmp_path):
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(InvalidInputError, match="50000000000"):
        keeper.register(path, "huge", "model", "ann")


@pytest.mark.parametrize("name", ["--config", "-x", "a\nb", "x" * 4000])
def test_odd_names_are_judged_as_names(keeper, model, name):
    verdict = keeper.check(keeper.register(model, name, "model", "ann").id)
    assert verdict.outcome in (Outcome.ALLOW, Outcome.WARN, Outcome.BLOCK)


def test_a_verdict_forged_in_the_history_releases_nothing(keeper, tmp_path, database):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Innocent()))
    artifact = keeper.register(path, "m", "model", "ann")
    verdict = keeper.check(artifact.id)
    columns = (
        "artifact_id, script_name, recommendation, findings, stdout, stderr, execution_duration_ms,"
        " sha256, script_digest, policy_digest, isolation"
    )
    rows(database, f"INSERT INTO monitoring_history (check_id, exit_code, action_taken, entry_id, "
         f"{columns}) SELECT 'forged', 0, 'allowed', entry_id, {columns} "
         f"FROM monitoring_history RETURNING id")  # fmt: skip
    assert not verdict.allowed
    with pytest.raises(ArtifactBlockedError, match="not in the audit"):
        keeper.open_released(artifact.id)


def test_one_check_is_one_row_and_one_entry_with_the_same_content(keeper, model, database):
    artifact = keeper.register(model, "m", "model", "ann")
    verdict = keeper.check(artifact.id, user_id="bob")
    told = rows(database, "SELECT action, actor, resource_id, data FROM audit_outbox "
                "WHERE action LIKE 'gate.%'")  # fmt: skip
    assert [entry[:3] for entry in told] == [("gate.allowed", "bob", artifact.id)]
    assert json.loads(told[0][3])["check_id"] == verdict.check_id


@pytest.mark.parametrize("stage", ["find", "save"])
def test_a_database_that_goes_away_releases_nothing_and_writes_nothing(
    keeper, model, database, monkeypatch, stage
):
    artifact = keeper.register(model, "m", "model", "ann")

    def gone(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("gone")

    if stage == "find":
        monkeypatch.setattr(keeper, "_find", gone)
    else:
        monkeypatch.setattr("secmon_dagster.gate.history.save_monitoring_result", gone)
    with pytest.raises(DatabaseUnavailableError):
        keeper.download(artifact.id)
    assert rows(database) == []
    assert rows(database, "SELECT 1 FROM audit_outbox WHERE action LIKE 'gate.%'") == []


def test_an_entry_that_cant_be_written_takes_its_row_with_it(model, database):
    def refuse(*_: object, **__: object) -> str:
        raise EntryRefusedError("no")

    artifact = Gatekeeper().register(model, "m", "model", "ann")
    with pytest.raises(EntryRefusedError):
        Gatekeeper(enqueue=refuse).check(artifact.id)
    assert rows(database) == []


def test_a_weaker_sandbox_than_demanded_releases_nothing(keeper, model, monkeypatch):
    artifact = keeper.register(model, "m", "model", "ann")
    keeper.check(artifact.id)
    monkeypatch.setenv("SECMON_GATE_MIN_ISOLATION", "bubblewrap")
    get_settings.cache_clear()
    with pytest.raises(ArtifactBlockedError, match="demands bubblewrap"):
        keeper.open_released(artifact.id)


def test_a_changed_script_needs_a_new_check(keeper, model, monkeypatch, tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    script = scripts / "own.py"
    script.write_text('print(\'{"findings": [], "recommendation": "allow"}\')')
    monkeypatch.setenv("SECURITY_SCRIPTS_DIR", str(scripts))
    get_settings.cache_clear()
    artifact = keeper.register(model, "m", "model", "ann", monitoring_script="own.py")
    keeper.check(artifact.id)
    keeper.open_released(artifact.id).close()
    script.write_text("import sys; sys.exit(2)")
    with pytest.raises(ArtifactBlockedError, match="no verdict"):
        keeper.open_released(artifact.id)
    assert keeper.check(artifact.id).outcome is Outcome.BLOCK


def test_the_worst_of_several_scripts_decides(keeper, model):
    artifact = keeper.register(
        model, "x" * 300, "model", "ann", monitoring_script="size_limit_check.py,default_check.py"
    )
    verdict = keeper.check(artifact.id)
    assert verdict.outcome is Outcome.WARN
    assert verdict.result.script_name == "size_limit_check.py+default_check.py"
    assert [found["script"] for found in verdict.findings] == ["default_check.py"]
