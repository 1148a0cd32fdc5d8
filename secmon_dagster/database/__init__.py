"""One PostgreSQL for everything: the embedded server or one's own, roles, migrations, sessions.

``connect`` and ``transaction`` give psycopg connections with the rights of a :class:`Role`;
``migrate`` brings schema ``secmon`` up to date; ``embedded`` runs the server that comes with us.
"""

from typing import TYPE_CHECKING

from secmon_dagster.database import embedded
from secmon_dagster.database.engine import Role, connect, connection_parameters, database_url
from secmon_dagster.database.sessions import close_pools, pool, transaction

if TYPE_CHECKING:
    from secmon_dagster.database.migrations import migrate, pending_migrations


def __getattr__(name: str) -> object:
    """Alembic and SQLAlchemy take half a second to import, and few processes migrate."""
    if name in ("migrate", "pending_migrations"):
        from secmon_dagster.database import migrations

        return getattr(migrations, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Role",
    "close_pools",
    "connect",
    "connection_parameters",
    "database_url",
    "embedded",
    "migrate",
    "pending_migrations",
    "pool",
    "transaction",
]
