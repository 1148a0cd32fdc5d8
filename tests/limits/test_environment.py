"""Secrets that a process inherited: which they are, and that nothing shows them any more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secmon_dagster.limits.environment import secret_names
from secmon_dagster.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("GITHUB_TOKEN", "x"),
        ("OPENAI_API_KEY", "x"),
        ("BROKER", "amqp://worker:hunter2@queue:5672"),
    ],
)
def test_secrets_are_known_by_their_name_or_by_a_password_in_a_url(name, value):
    assert secret_names({name: value, "PATH": "/bin", "HOME": "/root"}) == {name}


def test_every_secret_setting_is_known_by_its_name():
    secret = {
        str(field.validation_alias)
        for field in Settings.model_fields.values()
        if "SecretStr" in str(field.annotation)
    }
    assert "SECMON_DATABASE_URL" in secret
    assert secret_names(dict.fromkeys(secret, "x")) == secret


@pytest.mark.parametrize("value", ["http://host:8080/path", "a@b.example", "http://host/a:b@c"])
def test_what_only_looks_like_it_is_left_alone(value):
    assert secret_names({"ADDRESS": value}) == set()


FORGETS = """
import os
from secmon_dagster.limits.environment import forget, secret_names
forget(secret_names(os.environ))
shown = open("/proc/self/environ").read()
assert "hunter2" not in shown and "KEPT=value" in shown
assert "MY_PASSWORD" not in os.environ and os.environ["KEPT"] == "value"
print(os.popen("env").read())
"""


def test_a_forgotten_value_is_not_shown_by_the_kernel_nor_handed_on():
    done = subprocess.run(
        [sys.executable, "-c", FORGETS],
        env={"MY_PASSWORD": "hunter2", "KEPT": "value", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hunter2" not in done.stdout
    assert "KEPT=value" in done.stdout
