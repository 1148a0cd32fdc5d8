"""What holds for every request, below the endpoints: ids, sizes, speeds and headers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secmon_dagster.api.rate_limit import Budget

LINGER_SECONDS = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_log = logging.getLogger("secmon.api.access")


@dataclass(eq=False)
class _RefusedError(Exception):
    """A request the application never sees.

    Attributes:
        unread: whether more of its body is on the way.
    """

    status: int
    problem_type: str
    detail: str
    unread: bool = False


class Transport:
    """ASGI middleware: gives each request an id, bounds its body, and finishes its response.

    Args:
        max_body_bytes: larger bodies are answered 413, whether they announce it or not.
        body_seconds: bodies that take longer to arrive are answered 408.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, body_seconds: float) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id", "")
        # Only an id that can't break a header or a log line is taken over.
        request_id = offered if _REQUEST_ID.fullmatch(offered) else str(uuid.uuid4())
        # Its own, whatever the server does: who calls is kept there.
        state = scope["state"] = dict(scope.get("state", {}))
        state["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                out["X-Content-Type-Options"] = "nosniff"
                budget = state.get("budget")
                if isinstance(budget, Budget):
                    for name, value in budget.headers().items():
                        out[name] = value
            await send(message)

        try:
            body = await self._body(headers, receive)
        except _RefusedError as refused:
            await _refuse(finish, receive, scope, request_id, refused)
        else:
            await self._app(scope, _replay(body, receive), finish)
        finally:
            _log.info(
                "%s %s %s %.1f ms request_id=%s",
                scope["method"],
                scope["path"].encode("unicode_escape").decode(),
                status,
                (time.perf_counter() - started) * 1000,
                request_id,
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            raise self._too_large(unread=True)
        if not announced and "transfer-encoding" not in headers:
            return b""
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise self._too_slow()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._max_body_bytes:
                        raise self._too_large(unread=more)
        except TimeoutError:
            raise self._too_slow() from None
        return b"".join(parts)

    def _too_large(self, *, unread: bool) -> _RefusedError:
        detail = f"A body may have {self._max_body_bytes} bytes"
        return _RefusedError(413, "content-too-large", detail, unread)

    def _too_slow(self) -> _RefusedError:
        detail = f"The body did not arrive within {self._body_seconds:g} s"
        return _RefusedError(408, "request-timeout", detail)


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(
    send: Send, receive: Receive, scope: Scope, request_id: str, refused: _RefusedError
) -> None:
    """Answer without the application.

    What is still coming of a large body is read and dropped for a while: closed on a client that
    is sending, the connection would be reset, and the answer lost with it.
    """
    body = orjson.dumps(
        {
            "type": f"/problems/{refused.problem_type}",
            "title": refused.problem_type.replace("-", " ").title(),
            "status": refused.status,
            "detail": refused.detail,
            "instance": scope["path"],
            "request_id": request_id,
        }
    )
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while refused.unread and (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})
