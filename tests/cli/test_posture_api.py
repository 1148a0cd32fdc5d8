"""`secmon posture` and `secmon api key`, through the command line itself."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from secmon_dagster.cli import api, posture
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.posture.keys import list_keys, split_key
from secmon_dagster.posture.session import Session


def run(app, *words: str, expect: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == expect, result.output
    return result.output


def test_a_key_is_shown_once_listed_without_its_secret_and_ended(database):
    text = run(api.app, "key", "create", "--user", "ada", "--role", "viewer").splitlines()[0]
    key_id, _ = split_key(text)
    (key,) = list_keys(Session.open())
    assert (key.key_id, key.user_id, key.role, key.state) == (key_id, "ada", "viewer", "valid")
    assert text.removeprefix(f"secmon_{key_id}_") not in run(api.app, "key", "list")
    assert run(api.app, "key", "revoke", key_id) == f"{key_id} is revoked\n"
    assert list_keys(Session.open())[0].state == "revoked"
    with pytest.raises(NotFoundError):
        run(api.app, "key", "revoke", "nothing")


@pytest.mark.parametrize("days", ["nan", "inf", "1e300", "0", "-1", "3651"])
def test_a_lifetime_that_can_not_be_is_refused(database, days):
    with pytest.raises(InvalidInputError, match="days is"):
        run(api.app, "key", "create", "--user", "ada", "--days", days)


def test_an_agent_is_declared_checked_and_scored(database):
    assert "strict" in run(posture.app, "layers")
    instance = run(posture.app, "create", "bot", "--owner", "ada", "--scope", "act").strip()
    assert "score 75: monitoring" in run(posture.app, "check", instance)
    assert run(posture.app, "attach", instance, "strict") == f"{instance} is under strict\n"
    assert "bot" in run(posture.app, "instances")
    run(posture.app, "patterns")
