"""What holds for every request, below the endpoints: ids, sizes, speeds and headers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secmon_dagster.api.rate_limit import Budget

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_log = logging.getLogger("secmon.api.access")


class _TooLargeError(Exception):
    """The body is over the limit."""


class _TooSlowError(Exception):
    """The body took too long to arrive."""


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
        state = scope.setdefault("state", {})
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
            await self._app(scope, _replay(body, receive), finish)
        except _TooLargeError:
            await _refuse(
                finish,
                scope,
                request_id,
                413,
                "content-too-large",
                f"A body may have {self._max_body_bytes} bytes",
            )
        except _TooSlowError:
            await _refuse(
                finish,
                scope,
                request_id,
                408,
                "request-timeout",
                f"The body did not arrive within {self._body_seconds:g} s",
            )
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
            raise _TooLargeError
        if not announced and "transfer-encoding" not in headers:
            return b""
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _TooSlowError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body_bytes:
                        raise _TooLargeError
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _TooSlowError from None
        return b"".join(parts)


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
    send: Send, scope: Scope, request_id: str, status: int, problem_type: str, detail: str
) -> None:
    body = orjson.dumps(
        {
            "type": f"/problems/{problem_type}",
            "title": problem_type.replace("-", " ").title(),
            "status": status,
            "detail": detail,
            "instance": scope["path"],
            "request_id": request_id,
        }
    )
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),  # the rest of the body is not read
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
