"""Connections that don't wait for ever: slow clients must not hold what others need.

The body of a request is timed by :class:`~secmon_dagster.api.transport.Transport`; this is what
the application never sees: a head that doesn't come to its end, and a reader that stops reading.
"""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from secmon_dagster.settings import get_settings


class TimedConnection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with SECMON_API_BODY_SECONDS for each head and each stalled write."""

    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: its first head is waited for."""
        super().connection_made(transport)
        self._seconds = get_settings().api_body_seconds
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """The first bytes after a response begin the next head, even if they are blank."""
        if self._head is None and self.cycle is not None and self.cycle.response_complete:
            self._wait_for_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is there."""
        _cancel(self._head)
        self._head = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client doesn't read, or less than comes."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        _cancel(self._stalled)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        _cancel(self._head)
        _cancel(self._stalled)
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self._seconds, self._refuse)

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        body = orjson.dumps(
            {
                "type": "/problems/request-timeout",
                "title": "Request Timeout",
                "status": 408,
                "detail": f"The head of the request did not arrive within {self._seconds:g} s",
            }
        )
        self.transport.write(
            b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
