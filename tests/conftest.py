"""What every test may use: an embedded PostgreSQL per session, a fresh database per test."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psycopg
import pytest
from psycopg import sql

from secmon_dagster import database as database_package
from secmon_dagster.database import embedded
from secmon_dagster.settings import get_settings

if TYPE_CHECKING:
    from secmon_dagster.vecsec import DetectorModel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure(config: pytest.Config) -> None:
    # A suite started in the background (`make test &`) inherits an ignored SIGINT, and so would
    # every process it starts: the tests of Ctrl-C need the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same examples each time, so that a change alone decides; --slow looks for new ones. How
    # busy the machine is decides nothing.
    hypothesis.settings.register_profile(
        "secmon",
        derandomize=not config.getoption("--slow"),
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("secmon")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


@dataclass(frozen=True)
class Database:
    """A fresh, migrated database."""

    url: str

    def admin(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """A superuser's connection."""
        return psycopg.connect(self.url, autocommit=autocommit)


@pytest.fixture(autouse=True)
def _settings_are_read_anew() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SECMON_HOME of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SECMON_HOME", str(folder))
    get_settings.cache_clear()
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a migrated template database on an embedded PostgreSQL of this session's own.

    SECMON_TEST_DATABASE_URL names another server instead: a superuser and an empty database
    ``secmon``, as ``postgresql://USER@/secmon?host=SOCKETS``.

    Outside pytest's own temporary tree: every pytest that root starts closes that tree to others,
    and PostgreSQL runs as another user.
    """
    if given := os.environ.get("SECMON_TEST_DATABASE_URL"):
        database_package.migrate(given)
        database_package.close_pools()
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="secmon", ignore_cleanup_errors=True) as folder:
        yield from _serve(Path(folder) / "h")


def _serve(folder: Path) -> Iterator[str]:
    before = {name: os.environ.pop(name, None) for name in ("SECMON_HOME", "SECMON_DATABASE_URL")}
    os.environ["SECMON_HOME"] = str(folder)
    get_settings.cache_clear()
    with embedded.hold() as url:
        database_package.migrate()
        database_package.close_pools()
        with psycopg.connect(url, autocommit=True) as connection:
            # Dropping a database waits for the disk, for seconds on a busy one. Processes that are
            # killed lose nothing by this, only a machine that loses power.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url
        os.environ["SECMON_HOME"] = str(folder)
        os.environ.pop("SECMON_DATABASE_URL", None)
        get_settings.cache_clear()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def new_database(server: str) -> Callable[[], AbstractContextManager[Database]]:
    """Makes databases for fixtures that outlive a test; settings are theirs to point there."""

    @contextmanager
    def make() -> Iterator[Database]:
        name = f"test_{uuid.uuid4().hex[:12]}"
        maintenance = server.replace("/secmon?", "/postgres?")
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE secmon").format(sql.Identifier(name))
            )
        yield Database(server.replace("/secmon?", f"/{name}?"))
        database_package.close_pools()
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    return make


@pytest.fixture
def database(
    new_database: Callable[[], AbstractContextManager[Database]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    """A database of the test's own; the settings of this process point to it."""
    with new_database() as made:
        monkeypatch.setenv("SECMON_DATABASE_URL", made.url)
        get_settings.cache_clear()
        yield made


@pytest.fixture(scope="session")
def base_detector() -> DetectorModel:
    """A prompt detector trained on the base corpora, once a session: it takes seconds."""
    from secmon_dagster.vecsec import base_corpus, train  # scikit-learn: not in every session

    return train(base_corpus())
