from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import psycopg
import pytest

from secmon_dagster.database import (
    Role,
    connect,
    database_url,
    migrate,
    migrations,
    sessions,
    transaction,
)
from secmon_dagster.errors import DatabaseUnavailableError, SchemaError, SettingsError
from secmon_dagster.settings import get_settings


def test_a_second_migration_applies_nothing(database):
    assert migrate() == []


def test_migrating_from_many_threads_at_once_applies_each_file_once(database):
    with database.admin() as admin:
        admin.execute("DROP SCHEMA secmon CASCADE")
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(names) for names in applied)[:3] == [0, 0, 0]
    assert max(applied, key=len) == [path.name for path in migrations.migration_files()]


def test_a_schema_from_the_future_is_refused(database):
    with database.admin() as admin:
        admin.execute("UPDATE secmon.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match="at version 9999, newer than this code"):
        migrate()


def test_a_failing_migration_leaves_nothing_behind(database, tmp_path, monkeypatch):
    shutil.copytree(migrations.sql_directory(), tmp_path / "sql")
    (tmp_path / "sql" / "9000_broken.sql").write_text(
        "CREATE TABLE secmon.half (id int); SELECT no_such_column;"
    )
    monkeypatch.setattr(migrations, "sql_directory", lambda: tmp_path / "sql")
    with pytest.raises(SchemaError, match="no_such_column"):
        migrate()
    with database.admin() as admin:
        assert admin.execute("SELECT to_regclass('secmon.half')").fetchone() == (None,)
    (tmp_path / "sql" / "9000_broken.sql").write_text("CREATE TABLE secmon.half (id int);")
    assert migrate() == ["9000_broken.sql"]


def test_no_role_of_ours_is_a_superuser_and_the_owner_cannot_log_in(database):
    with database.admin() as admin:
        rows = admin.execute(
            "SELECT rolname, rolsuper, rolcanlogin FROM pg_roles WHERE rolname LIKE 'secmon_%'"
        ).fetchall()
    assert set(rows) == {
        ("secmon_owner", False, False),
        ("secmon_writer", False, True),
        ("secmon_reader", False, True),
        ("secmon_service", False, True),
    }


@pytest.mark.parametrize("role", [Role.WRITER, Role.READER, Role.SERVICE, Role.OWNER])
def test_a_connection_acts_as_its_role_and_finds_tables_without_naming_the_schema(database, role):
    with connect(role) as connection:
        row = connection.execute("SELECT current_user, current_schemas(false)").fetchone()
    assert row == (role.value, ["secmon", "public"])


def test_a_transaction_knows_who_asks_and_the_next_one_does_not(database):
    with transaction(user_id="ada") as connection:
        assert connection.execute("SELECT secmon.current_user_id()").fetchone() == ("ada",)
    with transaction() as connection:
        assert connection.execute("SELECT secmon.current_user_id()").fetchone() == (None,)


def test_a_child_forked_while_a_thread_makes_a_pool_is_not_stuck(database):
    making, forked = threading.Event(), threading.Event()

    def make_a_pool():
        with sessions._lock:
            making.set()
            forked.wait(60)

    thread = threading.Thread(target=make_a_pool)
    thread.start()
    making.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # ends it, if it is stuck
        try:
            with transaction() as connection:
                connection.execute("SELECT 1")
        except BaseException:
            os._exit(1)
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_rolls_the_transaction_back(database):
    with pytest.raises(RuntimeError), transaction() as connection:
        connection.execute("INSERT INTO artifacts (id, name, type) VALUES ('a', 'a', 'model')")
        raise RuntimeError
    with transaction() as connection:
        assert connection.execute("SELECT count(*) FROM artifacts").fetchone() == (0,)


def test_dag_executions_is_empty_until_dagster_made_its_tables(database):
    with transaction() as connection:
        assert connection.execute("SELECT * FROM dag_executions").fetchall() == []


def test_no_server_at_the_url_is_one_clear_sentence(home, monkeypatch):
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody:s3cret@127.0.0.1:1/x")
    get_settings.cache_clear()
    with pytest.raises(DatabaseUnavailableError, match="does not answer") as refused:
        connect()
    assert "s3cret" not in refused.value.diagnostics()


def test_the_embedded_server_that_is_not_running_says_how_to_start_it(home, monkeypatch):
    monkeypatch.delenv("SECMON_DATABASE_URL", raising=False)
    get_settings.cache_clear()
    with pytest.raises(DatabaseUnavailableError, match="isn't running") as refused:
        database_url()
    assert "secmon db start" in refused.value.diagnostics()


def test_a_url_that_is_not_postgres_is_refused(monkeypatch):
    monkeypatch.setenv("SECMON_DATABASE_URL", "mysql://localhost/x")
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match="scheme 'mysql'"):
        database_url()


@pytest.mark.parametrize("url", ["postgresql://u:s3c%ret@h/d", "postgresql://u:s3cret@h/d?bogus=1"])
def test_a_url_that_cannot_be_parsed_is_refused_without_its_password(monkeypatch, url):
    monkeypatch.setenv("SECMON_DATABASE_URL", url)
    get_settings.cache_clear()
    for ask in (connect, migrate):
        with pytest.raises(SettingsError, match="is no PostgreSQL URL") as refused:
            ask()
        assert "s3c" not in refused.value.diagnostics()


def test_a_sqlalchemy_style_url_is_understood(monkeypatch):
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql+psycopg2://u@h/d")
    get_settings.cache_clear()
    assert database_url() == "postgresql://u@h/d"


def test_only_the_owner_of_the_home_folder_is_let_in(server, tmp_path_factory):
    with psycopg.connect(server) as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()
    assert "peer map=secmon" in (Path(folder) / "pg_hba.conf").read_text()
    assert "trust" not in (Path(folder) / "pg_hba.conf").read_text()
