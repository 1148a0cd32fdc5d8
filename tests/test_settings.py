from __future__ import annotations

import re
from pathlib import Path

import pytest

from secmon_dagster.errors import SettingsError
from secmon_dagster.settings import Settings, load_settings, variable_of

PRINTED_NAMES = [
    "AUDIT_DB_URL",
    "BASETEN_API_KEY",
    "BASETEN_MODEL_ID",
    "DRIFT_SCHEDULER_TIMEZONE",
    "DRIFT_SCHEDULER_USE_APSCHEDULER",
    "MONITORING_ALERT_WEBHOOK",
    "MONITORING_MAX_OUTPUT",
    "MONITORING_TIMEOUT",
]


@pytest.mark.parametrize("name", PRINTED_NAMES)
def test_the_original_documents_variable_keeps_its_name(name):
    assert name in {variable_of(field) for field in Settings.model_fields}


def test_every_other_variable_is_ours_by_its_prefix():
    others = {variable_of(field) for field in Settings.model_fields} - set(PRINTED_NAMES)
    assert {name for name in others if not name.startswith("SECMON_")} == {"SECURITY_SCRIPTS_DIR"}


def test_every_setting_says_what_it_is_for():
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_wins_over_the_env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("MONITORING_TIMEOUT=7\nMONITORING_MAX_OUTPUT=500\n")
    monkeypatch.setenv("MONITORING_TIMEOUT", "9")
    settings = load_settings()
    assert (settings.monitoring_timeout, settings.monitoring_max_output) == (9.0, 500)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MONITORING_TIMEOUT", "0"),
        ("MONITORING_TIMEOUT", "soon"),
        ("MONITORING_MAX_OUTPUT", "-1"),
        ("DRIFT_SCHEDULER_TIMEZONE", "Mars/Olympus"),
        ("SECMON_WEBSERVER_PORT", "70000"),
        ("SECMON_GATE_MIN_ISOLATION", "none"),
    ],
)
def test_a_wrong_value_is_one_sentence_naming_variable_and_value(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=rf"^{variable} is '{re.escape(value)}': \S"):
        load_settings()


def test_a_secret_never_shows_when_settings_are_printed(monkeypatch):
    monkeypatch.setenv("AUDIT_DB_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("BASETEN_API_KEY", "hunter2")
    assert "hunter2" not in repr(load_settings())


def test_asking_for_apscheduler_warns_that_dagster_schedules(monkeypatch):
    monkeypatch.setenv("DRIFT_SCHEDULER_USE_APSCHEDULER", "true")
    with pytest.warns(UserWarning, match="Dagster schedules drift checks here"):
        load_settings()


def test_an_unrelated_home_variable_is_not_ours(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.delenv("SECMON_HOME", raising=False)
    settings = load_settings()
    assert settings.home.name == ".secmon"
    assert settings.user is None


def test_an_empty_value_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("SECMON_DATABASE_URL", "")
    monkeypatch.setenv("MONITORING_TIMEOUT", "")
    settings = load_settings()
    assert (settings.database_url, settings.monitoring_timeout) == (None, 5.0)


def test_a_home_under_the_users_own_folder_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECMON_HOME", raising=False)
    Path(".env").write_text("SECMON_HOME=~/state\n")
    assert load_settings().home == Path.home() / "state"


def test_a_variable_in_lower_case_is_not_ours(monkeypatch):
    monkeypatch.setenv("secmon_api_port", "1234")
    assert load_settings().api_port == 8000


def test_an_env_file_that_is_no_text_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(b"SECMON_USER=\xff\n")
    with pytest.raises(SettingsError, match=rf"{tmp_path}/.env can't be read: .*utf-8"):
        load_settings()
