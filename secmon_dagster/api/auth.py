"""Who calls: API keys, roles, and the dependencies that endpoints demand them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import psycopg
from fastapi import Depends, Request
from psycopg_pool import PoolTimeout

from secmon_dagster.api.rate_limit import admit, budget_of
from secmon_dagster.errors import (
    DatabaseUnavailableError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
)
from secmon_dagster.posture.keys import ApiRole, split_key
from secmon_dagster.posture.records import Credential
from secmon_dagster.posture.service import SecurityMonitoringService
from secmon_dagster.posture.session import Session
from secmon_dagster.settings import get_settings


class Permission(StrEnum):
    """What an endpoint demands."""

    READ = "read"
    OPERATE = "operate"
    APPROVE = "approve"
    ADMINISTER = "administer"


GRANTED = {
    ApiRole.VIEWER: {Permission.READ},
    ApiRole.OPERATOR: {Permission.READ, Permission.OPERATE},
    ApiRole.APPROVER: {Permission.READ, Permission.APPROVE},
    ApiRole.ADMIN: set(Permission),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    Attributes:
        user_id: as audit entries name them.
        instance_id: the agent the key is bound to, if any.
    """

    user_id: str
    role: ApiRole
    key_id: str
    instance_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether rows of every user are visible: for approvers and administrators."""
        return self.role in (ApiRole.APPROVER, ApiRole.ADMIN)

    @property
    def row_user(self) -> str | None:
        """The user for row-level security; None where every row may be seen."""
        return None if self.sees_all else self.user_id

    @property
    def credential(self) -> Credential:
        """How the caller proved itself, as evidence."""
        return Credential(method="api_key", key_id=self.key_id)

    def may(self, permission: Permission) -> bool:
        """Whether the role includes ``permission``."""
        return permission in GRANTED[self.role]


def principal(request: Request) -> Principal:
    """The caller, known by ``Authorization: Bearer <key>`` or ``X-API-Key``.

    A request is admitted, and counted, once, however often this is asked.

    Raises:
        UnauthenticatedError: no key, or one that is unknown, expired or revoked.
        RateLimitedError: the key's requests of this minute are used up.
    """
    known = getattr(request.state, "principal", None)
    if isinstance(known, Principal):
        return known
    who = _admitted(request)
    _stay_within_binding(request, who)
    request.state.principal = who
    return who


def authorised(request: Request, permission: Permission) -> Principal:
    """The caller, if their role includes ``permission``.

    Raises:
        PermissionDeniedError: it doesn't; and what :func:`principal` raises.
    """
    who = principal(request)
    if not who.may(permission):
        raise PermissionDeniedError(f"Role {who.role} may not {permission} here")
    return who


def require(permission: Permission) -> Callable[[Request], Principal]:
    """A dependency: :func:`authorised`."""

    def check(request: Request) -> Principal:
        return authorised(request, permission)

    return check


Reader = Annotated[Principal, Depends(require(Permission.READ))]
Operator = Annotated[Principal, Depends(require(Permission.OPERATE))]
Approver = Annotated[Principal, Depends(require(Permission.APPROVE))]


def _admitted(request: Request) -> Principal:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not key:
        raise UnauthenticatedError(
            "This endpoint needs an API key", hint="Send Authorization: Bearer <key>."
        )
    parts = split_key(key)
    if parts is None:
        raise UnauthenticatedError("The API key is not valid")
    key_id, digest = parts
    try:
        row = admit(key_id, digest, get_settings().api_requests_per_minute)
    except (psycopg.OperationalError, PoolTimeout):
        raise DatabaseUnavailableError("The database does not answer") from None
    if row["state"] == "unknown":
        raise UnauthenticatedError("The API key is not valid")
    if row["state"] != "ok":
        _note_refusal(request, row["user_id"], key_id, row["state"])
        raise UnauthenticatedError(f"The API key is {row['state']}")
    budget = budget_of(row)
    request.state.budget = budget
    if not row["allowed"]:
        if row["instance_id"] is not None and budget.quota < get_settings().api_requests_per_minute:
            # Its layer's limit, not the platform's: being held back is evidence about it.
            SecurityMonitoringService(Session.open(user_id=row["user_id"])).log_throttled_call(
                row["instance_id"], _call(request), Credential("api_key", key_id)
            )
        raise RateLimitedError(
            f"{budget.quota} requests a minute are allowed; try again in {budget.reset_seconds} s",
            retry_after=budget.reset_seconds,
            limit=budget.quota,
        )
    return Principal(row["user_id"], ApiRole(row["role"]), key_id, row["instance_id"])


def _stay_within_binding(request: Request, who: Principal) -> None:
    """A key bound to one agent knows no other; that it tried is evidence against that agent."""
    asked = request.path_params.get("instance_id")
    if who.instance_id is None or asked in (None, who.instance_id):
        return
    service = SecurityMonitoringService(Session.open())
    service.log_denied_call(
        who.instance_id,
        _call(request),
        who.credential,
        out_of_bounds=True,
    )
    raise NotFoundError(f"There is no agent instance {asked!r}")


def _call(request: Request) -> str:
    return f"{request.method} {request.url.path}".replace("\x00", "")[:200]


def _note_refusal(request: Request, user_id: str, key_id: str, state: str) -> None:
    """A known key that no longer holds is evidence about the instance it was used for."""
    asked = request.path_params.get("instance_id")
    if asked is None or "\x00" in asked:
        return
    service = SecurityMonitoringService(Session.open(user_id=user_id))
    try:
        service.log_denied_call(
            asked,
            _call(request),
            Credential("api_key", key_id, error=state),
        )
    except NotFoundError:
        return  # not an instance of this key's user: nobody's evidence
