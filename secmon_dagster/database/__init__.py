"""One PostgreSQL for everything: the embedded server or one's own, roles, migrations, sessions.

``connect`` and ``transaction`` give psycopg connections with the rights of a :class:`Role`;
``migrate`` brings schema ``secmon`` up to date; ``embedded`` runs the server that comes with us.
"""

from secmon_dagster.database import embedded
from secmon_dagster.database.engine import Role, connect, connection_parameters, database_url
from secmon_dagster.database.migrations import migrate, pending_migrations
from secmon_dagster.database.sessions import close_pools, pool, transaction

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
