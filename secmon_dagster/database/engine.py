"""Which PostgreSQL, and how a role connects to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import psycopg
from psycopg import conninfo
from pydantic import SecretStr

from secmon_dagster.database import embedded
from secmon_dagster.errors import DatabaseUnavailableError, SettingsError
from secmon_dagster.settings import get_settings

CONNECT_TIMEOUT_SECONDS = 10


class Role(StrEnum):
    """Who connects. All but ADMIN are roles made by ``sql/0001_foundation.sql``."""

    ADMIN = "admin"  # the URL's own user: migrations, and Dagster's storage
    OWNER = "secmon_owner"
    WRITER = "secmon_writer"
    READER = "secmon_reader"
    SERVICE = "secmon_service"


def database_url() -> str:
    """The URL of the project's database, as its own user.

    Raises:
        DatabaseUnavailableError: the embedded server is meant and isn't running.
        SettingsError: ``SECMON_DATABASE_URL`` is no PostgreSQL URL.
    """
    configured = get_settings().database_url
    if configured is None:
        return embedded.running_url()
    url = configured.get_secret_value()
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in ("postgresql", "postgres"):
        found = f"the scheme {scheme!r}" if "://" in url else "no scheme"
        raise SettingsError(
            f"SECMON_DATABASE_URL has {found}; allowed: postgresql://…",
            hint="SQLite and MySQL serve only the audit chain, through AUDIT_DB_URL.",
        )
    # libpq knows no driver suffix such as postgresql+psycopg2.
    return "postgresql:" + url.partition(":")[2]


def password_of(role: Role) -> SecretStr | None:
    """The password of the role's own login, where it has one."""
    return {
        Role.WRITER: get_settings().writer_password,
        Role.READER: get_settings().reader_password,
        Role.SERVICE: get_settings().service_password,
    }.get(role)


def connection_parameters(role: Role, url: str | None = None) -> dict[str, Any]:
    """libpq parameters for ``role``: its own login where it has one, else the URL's user with
    ``SET ROLE`` in force from the first statement on."""
    own = url is None
    try:
        parameters: dict[str, Any] = dict(conninfo.conninfo_to_dict(url or database_url()))
    except psycopg.ProgrammingError:  # its text may hold a piece of the password
        raise SettingsError(
            f"{'SECMON_DATABASE_URL' if own else 'the database URL'} is no PostgreSQL URL; "
            "allowed: postgresql://user:password@host:port/database",
            hint="Write % @ : / ? and # in user name and password as %25 %40 %3A %2F %3F and %23.",
        ) from None
    parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_SECONDS)
    parameters.setdefault("application_name", "secmon")
    if role is Role.ADMIN:
        return parameters
    password = password_of(role)
    if password is not None:
        return parameters | {"user": role.value, "password": password.get_secret_value()}
    if own and get_settings().database_url is None and role is not Role.OWNER:
        return parameters | {"user": role.value}  # the embedded server trusts its own system user
    options = f"{parameters.get('options', '')} -c role={role} -c search_path=secmon,public"
    return parameters | {"options": options.strip()}


def connect(
    role: Role = Role.SERVICE, *, user_id: str | None = None, autocommit: bool = False
) -> psycopg.Connection[Any]:
    """One connection of its own, outside any pool; close it with ``with``.

    Args:
        role: whose rights it has.
        user_id: who asks, for row-level security; kept for the whole connection.
        autocommit: as psycopg's.

    Raises:
        DatabaseUnavailableError: nothing answers, or the role may not connect.
    """
    try:
        connection: psycopg.Connection[Any] = psycopg.connect(
            **connection_parameters(role), autocommit=autocommit
        )
    except psycopg.OperationalError as refused:
        raise unavailable(refused) from None
    if user_id is not None:
        connection.execute("SELECT set_config('secmon.user_id', %s, false)", (user_id,))
        if not autocommit:
            connection.commit()
    return connection


def unavailable(refused: psycopg.OperationalError) -> DatabaseUnavailableError:
    """The error for a refused connection. libpq's text names host and user, never a password."""
    reason = " ".join(str(refused).split())
    return DatabaseUnavailableError(
        f"PostgreSQL does not answer: {reason}",
        hint="Start the embedded server with `secmon db start`, or check SECMON_DATABASE_URL.",
    )
