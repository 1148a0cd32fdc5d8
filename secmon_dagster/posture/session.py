"""For whom a service acts, and in which transactions."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from secmon_dagster.audit import enqueue
from secmon_dagster.database import Role, transaction
from secmon_dagster.settings import get_settings

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Session:
    """Who acts and how to reach the database.

    Attributes:
        actor: as the audit chain names them.
        user_id: whose rows may be touched; None means everyone's.
        begin: gives a connection inside one transaction.
        request_id: the API request it serves, for the audit entries.
    """

    actor: str
    user_id: str | None
    begin: Callable[[], AbstractContextManager[Connection]]
    request_id: str | None = None

    @classmethod
    def open(cls, *, user_id: str | None = None, actor: str | None = None) -> Session:
        """A session of the platform's service role, each use in a transaction of its own."""

        @contextmanager
        def begin() -> Iterator[Connection]:
            with transaction(Role.SERVICE, user_id=user_id) as connection:
                yield connection

        return cls(actor=actor or user_id or acting_user(), user_id=user_id, begin=begin)

    @contextmanager
    def everyones_rows(self, connection: Connection) -> Iterator[None]:
        """Look at the rows of every user: what a check finds must not depend on who asks for it.

        For connections of the service role. What is raised inside must undo the transaction.
        """
        if self.user_id is None:
            yield
            return
        now = connection.execute(
            "SELECT current_setting('secmon.user_id'), current_setting('secmon.instance_id')"
        ).fetchone()
        put = (
            "SELECT set_config('secmon.user_id', %s, true), "
            "set_config('secmon.instance_id', %s, true)"
        )
        connection.execute(put, ("", ""))
        yield
        connection.execute(put, now)

    def record(
        self,
        connection: Connection,
        action: str,
        resource_type: str,
        *,
        resource_id: str,
        details: Mapping[str, Any],
        event_type: str | None = None,
        level: str = "info",
        execution_id: str | None = None,
    ) -> str:
        """Write an audit entry in the transaction of ``connection``: both are kept, or neither.

        Returns:
            The entry's id.
        """
        known = {} if self.request_id is None else {"request_id": self.request_id}
        return enqueue(
            connection,
            action=action,
            actor=self.actor,
            resource_type=resource_type,
            resource_id=resource_id,
            details={**details, **known},
            level=level,
            event_type=event_type,
            execution_id=execution_id,
        )


def acting_user() -> str:
    """Who uses the library: SECMON_USER, else the login name."""
    return get_settings().user or getpass.getuser()
