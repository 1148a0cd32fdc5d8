"""The text of a scrape, put together once per snapshot: a scrape only sends it.

Thousands of series take tens of milliseconds to print; the exporter's own three gauges, which
change from scrape to scrape, are printed each time and put behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_END = b"# EOF\n"
_KEPT = 4  # a scraper names its format; nobody may fill the memory with names

Encoder = Callable[[Collector], bytes]


class Pages:
    """Prints a collector, once for each format and state of it.

    Args:
        all_of: what is printed once per state.
        own: what is printed for each scrape, and put behind.
        state: tells two states apart by identity.
    """

    def __init__(self, all_of: Collector, own: Collector, state: Callable[[], object]) -> None:
        self._all, self._own, self._state = all_of, own, state
        self._printed: dict[str, tuple[object, bytes, Encoder]] = {}
        self._lock = threading.Lock()

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page in the format a scraper accepts, and the name of the format."""
        encoder, content_type = choose_encoder(accept)
        with self._lock:
            state, found = self._state(), self._printed.get(content_type)
            if found is None or found[0] is not state:
                found = self._print(content_type, encoder, state)
        return found[1] + encoder(self._own), content_type

    def renew(self) -> None:
        """Print the present state in the formats that were asked for, before it is asked for."""
        with self._lock:
            for content_type, (_, _, encoder) in list(self._printed.items()):
                self._print(content_type, encoder, self._state())

    def _print(
        self, content_type: str, encoder: Encoder, state: object
    ) -> tuple[object, bytes, Encoder]:
        text = encoder(self._all).removesuffix(_END)
        self._printed.pop(content_type, None)
        while len(self._printed) >= _KEPT:
            del self._printed[next(iter(self._printed))]
        self._printed[content_type] = (state, text, encoder)
        return self._printed[content_type]

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """WSGI: ``GET /metrics``."""
        if environ["REQUEST_METHOD"] != "GET":
            start_response("405 Method Not Allowed", [("Allow", "GET")])
            return [b""]
        if environ["PATH_INFO"] not in ("/metrics", "/"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"metrics are at /metrics\n"]
        page, content_type = self.page(environ.get("HTTP_ACCEPT", ""))
        start_response("200 OK", [("Content-Type", content_type)])
        return [page]
