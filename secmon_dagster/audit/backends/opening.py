"""From a URL to the database that holds the chain; drivers are imported when they are needed."""

from __future__ import annotations

from secmon_dagster.audit.backends.postgres import PostgresStore
from secmon_dagster.audit.store import Store, scheme_of


def open_store(url: str | None, *, pool_size: int, check: bool, synchronous_commit: str) -> Store:
    """The chain behind ``url``; None means the project's own database.

    Raises:
        InvalidInputError: no such kind of URL.
        DatabaseUnavailableError: nothing answers.
    """
    scheme = "postgresql" if url is None else scheme_of(url)
    if scheme == "postgresql":
        return PostgresStore(
            url, pool_size=pool_size, check=check, synchronous_commit=synchronous_commit
        )
    if scheme == "sqlite":
        from secmon_dagster.audit.backends.sqlite import SqliteStore

        return SqliteStore(url or "")
    from secmon_dagster.audit.backends.mysql import MysqlStore

    return MysqlStore(url or "")
