"""``secmon drift`` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secmon_dagster.cli.drift import app
from secmon_dagster.drift import compare
from secmon_dagster.errors import InvalidInputError, NotFoundError
from tests.drift_data import frame


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    frame(seed=1).to_csv(tmp_path / "reference.csv", index=False)
    frame(seed=2).to_parquet(tmp_path / "calm.parquet")
    frame(seed=3, shift=2.0).to_parquet(tmp_path / "shifted.parquet")
    return {
        path.stem: str(path) for path in tmp_path.iterdir() if path.suffix in (".csv", ".parquet")
    }


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_compare_prints_every_field_of_every_feature_as_json(files: dict[str, str]) -> None:
    shown = json.loads(invoke("compare", files["reference"], files["shifted"], "--json"))
    assert shown["level"] == "CRITICAL"
    expected = compare(frame(seed=1)["amount"], frame(seed=3, shift=2.0)["amount"])
    assert shown["features"]["amount"]["psi"] == pytest.approx(expected.psi)
    assert shown["features"]["amount"]["level"] == "CRITICAL"
    assert shown["features"]["channel"]["ks"] is None


def test_compare_writes_the_report_beside_the_table(files: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    printed = invoke("compare", files["reference"], files["calm"], "--html", str(page))
    assert printed.startswith("NORMAL: 2000 rows against 2000")
    assert "<svg" in page.read_text()


def test_a_model_from_profile_to_report(database: Any, files: dict[str, str]) -> None:
    assert "3 features, 2000 rows" in invoke("profile", "churn", "1", files["reference"])
    invoke("configure", "churn", "1", "--schedule", "0 9 * * MON-FRI", "--timezone", "Asia/Tokyo")
    listed = json.loads(invoke("list", "--json"))["schedules"]
    assert listed[0]["next_run_time"].endswith("T09:00:00+09:00")
    assert json.loads(invoke("run", "churn", files["calm"], "--json"))["alert_level"] == "NORMAL"
    printed = invoke("run", "churn", files["shifted"], code=4)
    check_id = printed.split()[2]
    history = json.loads(invoke("history", "churn", "--json"))
    assert [each["alert_level"] for each in history] == ["CRITICAL", "NORMAL"]
    assert json.loads(invoke("stats", "--json"))["alerts_generated"] == 1
    assert "<svg" in Path(invoke("report", check_id).strip()).read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("compare", "nowhere.csv", "nowhere.csv"), "there is no file nowhere.csv"),
        (("compare", __file__, __file__), "csv, tsv or parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises((InvalidInputError, NotFoundError), match=sentence):
        invoke(*words)


def test_a_window_that_is_no_json_is_refused(database: Any) -> None:
    with pytest.raises(InvalidInputError, match="--window is 'path'"):
        invoke("configure", "churn", "1", "--window", "path")
