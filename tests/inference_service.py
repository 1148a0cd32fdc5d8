"""An inference service on loopback that speaks the protocol, well or badly."""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import Any

KEY = "sk-very-secret"


def chat(word: str, tokens: int = 40) -> tuple[int, Any]:
    return 200, {
        "choices": [{"message": {"content": word}}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 1},
    }


class Service:
    """Answers in turn from ``script``; the last answer repeats."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append((self.path, dict(self.headers), body))
                answer = service.script[min(len(service.asked), len(service.script)) - 1]
                if answer == "late":
                    time.sleep(1.0)
                    answer = chat("BENIGN")
                if answer == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    for _ in range(20):
                        self.wfile.write(b" ")
                        time.sleep(0.05)
                    return
                if answer == "hang up":
                    self.close_connection = True
                    return
                status, content, *headers = answer
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None: ...

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
