"""Pooled connections, and transactions that know who asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import SecretStr

from secmon_dagster.database.engine import (
    Role,
    connection_parameters,
    database_url,
    password_of,
    unavailable,
)

# A pool's threads and sockets don't survive a fork, so a pool belongs to one process.
_pools: dict[tuple[int, Role, str, SecretStr | None], ConnectionPool[psycopg.Connection[Any]]] = {}
_lock = Lock()


def _after_fork() -> None:
    """Whatever thread of the parent held the lock is not in the child, and won't let go of it."""
    global _lock
    _lock = Lock()


os.register_at_fork(after_in_child=_after_fork)

POOL_SIZE = 8
POOL_WAIT_SECONDS = 10.0


def pool(role: Role = Role.SERVICE) -> ConnectionPool[psycopg.Connection[Any]]:
    """This process's pool for ``role``; connections open on demand and close when idle."""
    # What connections are made of, told before it is parsed: that would cost as much as a query.
    key = (os.getpid(), role, database_url(), password_of(role))
    with _lock:
        if key not in _pools:
            _pools[key] = ConnectionPool(
                kwargs=connection_parameters(role),
                min_size=0,
                max_size=POOL_SIZE,
                max_idle=60.0,
                timeout=POOL_WAIT_SECONDS,
                name=f"secmon-{role}",
                open=True,
            )
        return _pools[key]


def close_pools() -> None:
    """Close this process's pools; for tests and for servers that shut down."""
    with _lock:
        for key in [key for key in _pools if key[0] == os.getpid()]:
            _pools.pop(key).close()


@contextmanager
def transaction(
    role: Role = Role.SERVICE, *, user_id: str | None = None, instance_id: str | None = None
) -> Iterator[psycopg.Connection[Any]]:
    """A pooled connection inside one transaction: committed on exit, rolled back on an error.

    Args:
        role: whose rights it has.
        user_id: who asks, for row-level security; holds for this transaction only.
        instance_id: the one agent instance that exists for who asks; None means all of theirs.

    Raises:
        DatabaseUnavailableError: nothing answers, or the role may not connect.
    """
    try:
        borrowed = pool(role).connection()
        connection = borrowed.__enter__()
    except PoolTimeout as timeout:
        raise unavailable(psycopg.OperationalError(_reason(role, timeout))) from None
    try:
        # SET LOCAL takes no bind parameter; set_config(…, true) is the same thing that does.
        connection.execute(
            "SELECT set_config('secmon.user_id', %s, true), "
            "set_config('secmon.instance_id', %s, true)",
            (user_id or "", instance_id or ""),
        )
        yield connection
    except BaseException as failure:
        borrowed.__exit__(type(failure), failure, failure.__traceback__)
        raise
    else:
        borrowed.__exit__(None, None, None)


def _reason(role: Role, timeout: PoolTimeout) -> str:
    """Why the pool stayed empty: it only says that it waited."""
    try:
        psycopg.connect(**connection_parameters(role)).close()
    except psycopg.OperationalError as refused:
        return str(refused)
    return str(timeout)
