"""Who acts in a run, as the audit chain and the gate's approvals know them."""

from __future__ import annotations

import getpass

import dagster as dg

from secmon_dagster.settings import get_settings

USER_TAG = "secmon/user"


def actor_of(run: dg.DagsterRun) -> str:
    """The run's ``secmon/user`` tag, else ``SECMON_USER``, else the login name."""
    return run.tags.get(USER_TAG) or get_settings().user or getpass.getuser()
