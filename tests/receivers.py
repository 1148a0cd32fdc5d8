"""Real local servers that alerts are sent to: one speaks HTTP, the other SMTP."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any


@dataclass
class Received:
    """What has arrived; :meth:`wait` returns when something of interest has."""

    port: int = 0
    items: list[Any] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def add(self, item: Any) -> None:
        with self._arrived:
            self.items.append(item)
            self._arrived.notify_all()

    def wait(self, wanted: Callable[[Any], bool], seconds: float) -> Any:
        """The first item that is wanted.

        Raises:
            AssertionError: none came in time.
        """
        with self._arrived:
            came = self._arrived.wait_for(lambda: any(map(wanted, self.items)), seconds)
            assert came, self.items
            return next(filter(wanted, self.items))


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def webhook() -> Iterator[Received]:
    """A receiver of JSON posts; items are their bodies."""
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.add(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.port = server.server_port
    with _serving(server):
        yield received


@contextmanager
def mailbox() -> Iterator[Received]:
    """A mail server (RFC 5321, no extensions) that refuses ``*@refused.test``; items are mails with
    the envelope's recipients in ``X-Envelope-To``."""
    received = Received()

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 localhost ESMTP")
            recipients: list[str] = []
            while line := self.rfile.readline().decode("ascii", "replace").strip():
                word = line[:4].upper()
                if word in ("EHLO", "HELO", "MAIL", "RSET"):
                    recipients.clear()
                    self._say("250 localhost")
                elif word == "RCPT" and line.endswith("@refused.test>"):
                    self._say("550 no such mailbox")
                elif word == "RCPT":
                    recipients.append(line.partition("<")[2].partition(">")[0])
                    self._say("250 ok")
                elif word == "DATA" and recipients:
                    self._say("354 go on")
                    received.add(self._mail(recipients))
                    self._say("250 kept")
                elif word == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("503 not now")

        def _mail(self, recipients: list[str]) -> EmailMessage:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b"."))
            mail = message_from_bytes(b"".join(lines), policy=policy.default)
            mail["X-Envelope-To"] = ", ".join(recipients)
            return mail

        def _say(self, reply: str) -> None:
            self.wfile.write(reply.encode() + b"\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
    server.daemon_threads = True
    received.port = server.server_address[1]
    with _serving(server):
        yield received
