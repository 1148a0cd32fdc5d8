"""One request, one transaction: reads with ETags, writes that may safely be sent twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

import orjson
from fastapi import Depends, Request, Response
from pydantic import BaseModel

from secmon_dagster.api.auth import Permission, Principal, authorised
from secmon_dagster.api.byte_ranges import matches
from secmon_dagster.api.schemas import After, IdempotencyKey, IfNoneMatch, Limit
from secmon_dagster.database import Role, transaction
from secmon_dagster.errors import ConflictError, InvalidInputError
from secmon_dagster.posture.activity import KEEPS_EVIDENCE
from secmon_dagster.posture.session import Connection, Session

_PRINTABLE = re.compile(r"[\x21-\x7e]{1,200}")
KEPT_FOR = "24 hours"
GIVEN_UP_AFTER = "10 minutes"


class IdempotencyKeyReusedError(ConflictError):
    """The same key with another request."""

    status = 422
    problem_type = "idempotency-key-reused"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be answered once its caller is known to have the permission.

    The caller is looked up when it is first needed, in the thread that then does the work: a
    dependency that did it would cost another trip between threads.
    """

    request: Request
    permission: Permission

    @property
    def who(self) -> Principal:
        """The caller; raises what :func:`~secmon_dagster.api.auth.authorised` does."""
        return authorised(self.request, self.permission)

    def read(
        self,
        fetch: Callable[[Session], Any],
        *,
        after: Callable[[Any], str | int] | None = None,
        cursor: str = "after",
        limit: int | None = None,
    ) -> Response:
        """Answer a read, with an ETag, or 304 when the caller has it already.

        Args:
            fetch: reads through a session that sees what the caller may see.
            after: for a page, where the next one starts; its last item is passed.
        """
        who = self.who
        # Own rows only: then not even a mistake in a query can show another tenant's.
        role = Role.SERVICE if who.sees_all else Role.READER

        def begin() -> AbstractContextManager[Connection]:
            return transaction(role, user_id=who.row_user, instance_id=who.instance_id)

        # No connection is held by what reads through others: as many of those at once as the pool
        # has would wait for each other.
        value = fetch(self._session(begin))
        body = orjson.dumps(value)
        headers = {"ETag": _etag(body), "Cache-Control": "private, no-cache"}
        if after is not None and limit is not None and len(value) == limit:
            query = dict(self.request.query_params) | {cursor: str(after(value[-1]))}
            headers["Link"] = f'<{self.request.url.path}?{urlencode(query)}>; rel="next"'
        if matches(self.request.headers.get("if-none-match", ""), headers["ETag"], weak=True):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    def write(
        self,
        act: Callable[[Session], Any],
        *,
        body: BaseModel | None = None,
        status: int = 200,
        location: Callable[[Any], str] | None = None,
    ) -> Response:
        """Answer a write: all of it happens or nothing, and with an Idempotency-Key only once.

        Args:
            act: writes through a session bound to this request's transaction.
            body: the parsed body; a repeated key must come with the same one.
            location: for something created, where it is.

        Raises:
            InvalidInputError: the Idempotency-Key is not 1 to 200 printable characters.
            IdempotencyKeyReusedError: the key was used for another request.
        """
        who, key = self.who, self._key()
        with _transaction(who, key) as connection:
            if key is not None:
                stored = _reserve(connection, who, key, self.request, body)
                if stored is not None:
                    return stored
            answer = _answer(act(self._session(lambda: nullcontext(connection))), status, location)
            if key is not None:
                _keep(connection, who, key, answer)
        return answer

    def do(
        self,
        act: Callable[[], Any],
        *,
        body: BaseModel | bytes | None = None,
        status: int = 200,
        location: Callable[[Any], str] | None = None,
    ) -> Response:
        """Answer a write that has transactions of its own; see :meth:`write`.

        A second request with the key of one that is under way is a conflict; the key of one that
        died is free again after :data:`GIVEN_UP_AFTER`.
        """
        who, key = self.who, self._key()
        if key is None:
            return _answer(act(), status, location)
        with transaction(Role.SERVICE) as connection:
            stored = _reserve(connection, who, key, self.request, body)
        if stored is not None:
            return stored
        try:
            answer = _answer(act(), status, location)
        except BaseException:
            with transaction(Role.SERVICE) as connection:
                _release(connection, who, key)
            raise
        with transaction(Role.SERVICE) as connection:
            _keep(connection, who, key, answer)
        return answer

    def _key(self) -> str | None:
        key = self.request.headers.get("idempotency-key")
        if key is not None and not _PRINTABLE.fullmatch(key):
            raise InvalidInputError.of("Idempotency-Key", key[:50], "1 to 200 printable characters")
        return key

    def _session(self, begin: Callable[[], AbstractContextManager[Connection]]) -> Session:
        who = self.who
        return Session(who.user_id, who.row_user, begin, self.request.state.request_id)


# Coroutines, because they wait for nothing: FastAPI gives any other dependency to a worker thread.


def _reads(permission: Permission) -> Any:
    async def called(request: Request, if_none_match: IfNoneMatch = None) -> Call:
        return Call(request, permission)

    return Depends(called)


def _writes(permission: Permission) -> Any:
    async def called(request: Request, idempotency_key: IdempotencyKey = None) -> Call:
        return Call(request, permission)

    return Depends(called)


Reads = Annotated[Call, _reads(Permission.READ)]
Audits = Annotated[Call, _reads(Permission.APPROVE)]
Operates = Annotated[Call, _writes(Permission.OPERATE)]
Approves = Annotated[Call, _writes(Permission.APPROVE)]
Administers = Annotated[Call, _writes(Permission.ADMINISTER)]


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    after: str


async def _page(limit: Limit = 100, after: After = "") -> Page:
    return Page(limit, after)


Pages = Annotated[Page, Depends(_page)]


@contextmanager
def _transaction(who: Principal, key: str | None) -> Iterator[Connection]:
    with transaction(Role.SERVICE, user_id=who.row_user, instance_id=who.instance_id) as connection:
        try:
            yield connection
        except KEEPS_EVIDENCE:
            # The refusal stands, and so does what was seen; a retry is judged anew.
            if key is not None:
                _release(connection, who, key)
            connection.commit()
            raise


def _answer(value: Any, status: int, location: Callable[[Any], str] | None) -> Response:
    headers = {"Cache-Control": "no-store"}
    if location is not None:
        headers["Location"] = location(value)
    return Response(orjson.dumps(value), status, media_type="application/json", headers=headers)


def _keep(connection: Connection, who: Principal, key: str, answer: Response) -> None:
    shown = {
        name: answer.headers[name]
        for name in ("cache-control", "location")
        if name in answer.headers
    }
    connection.execute(
        "UPDATE idempotency_keys SET status = %s, headers = %s::jsonb, body = %s "
        "WHERE user_id = %s AND key = %s",
        (answer.status_code, orjson.dumps(shown).decode(), answer.body, who.user_id, key),
    )


def _release(connection: Connection, who: Principal, key: str) -> None:
    connection.execute(
        "DELETE FROM idempotency_keys WHERE user_id = %s AND key = %s", (who.user_id, key)
    )


def _reserve(
    connection: Connection,
    who: Principal,
    key: str,
    request: Request,
    body: BaseModel | bytes | None,
) -> Response | None:
    """Take the key for this request; the stored answer when it was given before.

    A second request with the key waits here until the first one has committed or failed.
    """
    asked = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    # Not as JSON: a body may hold what that can't, and be refused for it later.
    sent = repr(body.model_dump()) if isinstance(body, BaseModel) else repr(body)
    digest = hashlib.sha256(asked + sent.encode(errors="surrogatepass"))
    connection.execute(
        "DELETE FROM idempotency_keys WHERE user_id = %s AND created_at < now() - "
        "CASE WHEN status IS NULL THEN %s ELSE %s END::interval",
        (who.user_id, GIVEN_UP_AFTER, KEPT_FOR),
    )
    taken = connection.execute(
        "INSERT INTO idempotency_keys (user_id, key, request_hash) VALUES (%s, %s, %s) "
        "ON CONFLICT DO NOTHING RETURNING key",
        (who.user_id, key, digest.digest()),
    ).fetchone()
    if taken is not None:
        return None
    row = connection.execute(
        "SELECT request_hash, status, headers, body FROM idempotency_keys "
        "WHERE user_id = %s AND key = %s",
        (who.user_id, key),
    ).fetchone()
    if row is None or row[1] is None:
        raise ConflictError("Another request with this Idempotency-Key is under way")
    request_hash, status, headers, stored = row
    if request_hash != digest.digest():
        raise IdempotencyKeyReusedError(
            "This Idempotency-Key was used for another request",
            hint="Send a new key with each new request, the same one only when retrying.",
        )
    return Response(
        bytes(stored),
        status,
        media_type="application/json",
        headers={**headers, "Idempotency-Replayed": "true"},
    )


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
