from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from secmon_dagster.api.app import create_app
from secmon_dagster.posture.keys import create_key
from secmon_dagster.posture.session import Session

KeyMaker = Callable[..., dict[str, str]]


@pytest.fixture
def client(database) -> Iterator[TestClient]:
    """The whole application, lifespan included."""
    with TestClient(create_app(), raise_server_exceptions=False) as session:
        yield session


@pytest.fixture
def key(database) -> KeyMaker:
    """Makes an API key; gives the headers that carry it."""

    def make(role: str = "operator", user: str = "ada", **options) -> dict[str, str]:
        options.setdefault("lifetime", timedelta(hours=1))
        _, text = create_key(Session.open(), user_id=user, role=role, **options)
        return {"Authorization": f"Bearer {text}"}

    return make
