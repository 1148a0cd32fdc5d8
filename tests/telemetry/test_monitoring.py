"""Rules, configuration and dashboards, checked by promtool and amtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from secmon_dagster.telemetry import METRICS, Kind
from secmon_dagster.telemetry.dashboards import DASHBOARDS, build

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def _promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    _promtool("check", "config", "prometheus.yml")


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
def test_the_alertmanager_example_is_valid_and_routes_critical_alerts_to_mail_and_webhook() -> None:
    words = ["amtool", "check-config", str(FOLDER / "alertmanager.yml")]
    checked = subprocess.run(words, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    config = f"--config.file={FOLDER / 'alertmanager.yml'}"
    for severity, receivers in (("critical", "mail,webhook"), ("warning", "webhook")):
        routed = subprocess.run(
            ["amtool", "config", "routes", "test", config, f"severity={severity}"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert routed.stdout.strip() == receivers


@promtool
def test_every_rule_fires_when_it_should_and_not_before() -> None:
    _promtool("test", "rules", "tests/rules_test.yml")


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_checked_in_dashboard_is_the_generated_one(uid: str) -> None:
    title, panels = DASHBOARDS[uid]
    assert (FOLDER / "dashboards" / f"{uid}.json").read_text() == build(uid, title, panels)


def _expressions() -> list[str]:
    panels = [panel for _, panels in DASHBOARDS.values() for panel in panels]
    return [expression for panel in panels for expression, _ in panel.queries]


@promtool
def test_every_query_of_every_panel_is_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{place}", "expr": re.sub(r"\$__(rate_interval|range)", "5m", expression)}
        for place, expression in enumerate(_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(file))


def _known_names() -> set[str]:
    names = {"up"}
    for metric in METRICS.values():
        parts = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        names |= {metric.name + part for part in parts}
    return names


def test_every_metric_of_every_panel_and_rule_exists() -> None:
    rules = [
        rule["expr"]
        for file in (FOLDER / "rules").glob("*.yml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]
    named = re.compile(r"\b(?:vecsec|secmon)_\w+|\bup\b")
    for expression in _expressions() + rules:
        found = set(named.findall(re.sub(r'"[^"]*"', "", expression)))
        assert found
        assert found <= _known_names(), expression


def test_every_metric_but_the_exporters_own_is_on_some_dashboard() -> None:
    shown = " ".join(_expressions())
    own = {"secmon_collect_seconds", "secmon_collect_age_seconds", "vecsec_inference_success_total",
           "secmon_instance_checks_total"}  # fmt: skip
    assert [name for name in METRICS if name not in shown and name not in own] == []


def test_grafana_gets_a_password_of_its_own_and_shows_it_once(tmp_path: Path) -> None:
    file = tmp_path / "password"
    env = {"PATH": "/usr/bin:/bin", "SECMON_GRAFANA_PASSWORD_FILE": str(file),
           "SECMON_GRAFANA_RUN": "/bin/true"}  # fmt: skip
    words = ["sh", str(FOLDER / "grafana-start.sh")]
    first = subprocess.run(words, env=env, capture_output=True, text=True)
    again = subprocess.run(words, env=env, capture_output=True, text=True)
    assert file.read_text().strip() in first.stdout
    assert len(file.read_text().strip()) >= 32
    assert (file.stat().st_mode & 0o777, again.stdout) == (0o600, "")


@pytest.mark.parametrize("password", ["vecsec_admin", "admin"])
def test_a_published_password_is_refused(password: str) -> None:
    done = subprocess.run(
        ["sh", str(FOLDER / "grafana-start.sh")],
        env={"PATH": "/usr/bin:/bin", "GF_SECURITY_ADMIN_PASSWORD": password,
             "SECMON_GRAFANA_RUN": "/bin/true"},
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
