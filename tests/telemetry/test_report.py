"""The compliance report."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secmon_dagster.cli.report import app
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.telemetry.report import compliance_report
from tests.conftest import Database

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def blocked(database: Database) -> Database:
    with database.admin() as connection:
        connection.execute(
            """INSERT INTO secmon.monitoring_history (check_id, artifact_id, script_name,
                 exit_code, action_taken, execution_duration_ms, user_id, script_digest,
                 policy_digest, isolation)
               VALUES ('c1', 'model-7', 'default_check.py', 2, 'blocked', 40, '<b>ann</b>', 'd',
                       'p', 'rlimits')"""
        )
    return database


def test_what_was_blocked_is_in_the_period_and_only_there(blocked: Database) -> None:
    def rows(start: datetime, end: datetime) -> int:
        sections = {s.title: s for s in compliance_report(start, end).sections}
        return len(sections["Artifacts blocked"].rows)

    assert rows(NOW - DAY, NOW + DAY) == 1
    assert rows(NOW - 2 * DAY, NOW - DAY) == 0


def test_every_section_answers_on_the_real_schema_and_names_its_references(
    blocked: Database,
) -> None:
    report = compliance_report(NOW - DAY, NOW + DAY)
    assert len(report.sections) == 9
    for section in report.sections:
        assert section.references
        assert not section.rows or len(section.rows[0]) == len(section.columns)
    references = " ".join(r for section in report.sections for r in section.references)
    for body in ("SOC 2", "164.312", "GDPR Art. 5"):
        assert body in references


def test_names_from_outside_can_not_write_html(blocked: Database) -> None:
    page = compliance_report(NOW - DAY, NOW + DAY).to_html()
    assert "&lt;b&gt;ann&lt;/b&gt;" in page
    assert "<b>ann" not in page
    assert "<script" not in page


def test_a_missing_table_is_said_and_not_passed_off_as_nothing(blocked: Database) -> None:
    with blocked.admin() as connection:
        connection.execute("DROP TABLE secmon.approvals")
    sections = {s.title: s for s in compliance_report(NOW - DAY, NOW).sections}
    assert sections["Artifacts approved or denied"].missing == ("secmon.approvals",)


def test_an_empty_period_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInputError, match="from is"):
        compliance_report(NOW, NOW)


def test_the_command_writes_html_and_json(blocked: Database, tmp_path: Path) -> None:
    run = CliRunner()
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    assert run.invoke(app, ["compliance", "--from", "2025-01-01", "-o", str(page)]).exit_code == 0
    words = ["compliance", "--from", "2025-01-01", "--format", "json", "-o", str(data)]
    assert run.invoke(app, words).exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(data.read_text())["sections"]
