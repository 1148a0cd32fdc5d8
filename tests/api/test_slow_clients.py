"""What clients do to the real server: too slow, too large, malformed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

BODY_SECONDS = 1.0
SPEAK = b"Host: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """``secmon api serve``; no database answers it, and none of this needs one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("api")
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "secmon"), "api", "serve"],
            env=os.environ
            | {
                "SECMON_HOME": str(folder / "home"),
                "SECMON_API_PORT": str(port),
                "SECMON_API_BODY_SECONDS": str(BODY_SECONDS),
                "SECMON_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            },
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield SimpleNamespace(
            port=port, url=f"http://127.0.0.1:{port}", process=psutil.Process(process.pid), log=log
        )
    finally:
        process.terminate()
        process.wait()


def speak(api: SimpleNamespace, *said: bytes, pause: float = 0.0) -> bytes:
    """Say things, and hear until the server hangs up."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        for part in said:
            with contextlib.suppress(ConnectionError):
                connection.sendall(part)
            time.sleep(pause)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                heard += part
        return heard


def problem(heard: bytes) -> tuple[int, str]:
    head, _, body = heard.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    return int(head.split()[1]), json.loads(body)["type"]


def test_a_head_that_trickles_in_is_cut_off(api):
    heard = speak(api, b"GET /healthz HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 9, pause=0.2)
    assert problem(heard) == (408, "/problems/request-timeout")


def test_a_second_head_that_trickles_in_is_cut_off_too(api):
    heard = speak(api, b"GET /healthz HTTP/1.1\r\n" + SPEAK + b"\r\n", *[b"\r\n"] * 9, pause=0.2)
    assert heard.startswith(b"HTTP/1.1 200 OK")
    assert problem(heard[heard.index(b"HTTP/1.1 408") :])[0] == 408


def test_a_body_that_trickles_in_is_cut_off(api):
    head = b"POST /api/agent/instances HTTP/1.1\r\n" + SPEAK + b"Content-Length: 50\r\n\r\n"
    assert problem(speak(api, head, *[b"{"] * 9, pause=0.2)) == (408, "/problems/request-timeout")


def test_hundreds_of_slow_clients_do_not_keep_a_fast_one_waiting(api):
    slow = [socket.create_connection(("127.0.0.1", api.port)) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"POST /api/agent/instances HTTP/1.1\r\n")
    assert httpx.get(f"{api.url}/healthz").status_code == 200
    for connection in slow:
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


def waiting(connection: socket.socket) -> int:
    """Bytes that have come in and were not read; they grow no more once the server is stuck."""
    count = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def test_a_client_that_stops_reading_is_let_go(api):
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall((b"GET /openapi.json HTTP/1.1\r\n" + SPEAK + b"\r\n") * 200)
        before = -1
        while before != (before := waiting(connection)) or not before:
            time.sleep(3 * BODY_SECONDS)
        heard = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert 0 < heard.count(b"HTTP/1.1 200 OK") < 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_100_mb_is_refused_and_never_held(api, announced):
    megabyte, sent = b"x" * 1_000_000, 0
    peak = before = api.process.memory_info().rss

    def stream() -> Iterator[bytes]:
        nonlocal sent, peak
        for _ in range(100):
            sent += len(megabyte)
            peak = max(peak, api.process.memory_info().rss)
            yield megabyte

    answer = httpx.post(
        f"{api.url}/api/agent/instances",
        content=stream(),
        headers={"Content-Length": "100000000"} if announced else {},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/content-too-large")
    assert sent == 100_000_000
    assert peak - before < 20_000_000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nX-Request-Id: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nBroken header\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_malformed_head_is_refused_before_anything_reads_it(api, head):
    assert speak(api, head).startswith(b"HTTP/1.1 400")


def test_a_line_break_in_a_path_or_a_request_id_breaks_no_log_line_and_no_header(api):
    request = (
        b"GET /no%0d%0aSet-Cookie:%20x%0a2026-01-01%20INFO%20forged HTTP/1.1\r\n"
        b"X-Request-Id: \tforged id\r\nConnection: close\r\n" + SPEAK + b"\r\n"
    )
    heard = speak(api, request)
    assert heard.startswith(b"HTTP/1.1 404")
    assert b"set-cookie" not in heard.partition(b"\r\n\r\n")[0].lower()
    request_id = json.loads(heard.partition(b"\r\n\r\n")[2])["request_id"]
    (line,) = logged(api, "forged")
    assert line.endswith(f"request_id={request_id}") and "\\r\\n" in line


def test_every_request_is_logged_with_its_id(api):
    httpx.get(f"{api.url}/healthz", headers={"X-Request-Id": "trace-9"})
    (line,) = logged(api, "request_id=trace-9")
    assert " GET /healthz 200 " in line


def logged(api, text: str) -> list[str]:
    """The lines of the log with ``text``; the last is written after its answer was sent."""
    deadline = time.monotonic() + 10
    while True:
        lines = [line for line in api.log.read_text().splitlines() if text in line]
        if lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.05)
