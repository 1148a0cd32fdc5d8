"""The watching end of a boxed process's channel: frames in, bytes out, refused calls answered."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable

from secmon_dagster.limits import entry
from secmon_dagster.limits.channel import ChannelCorrupted, FrameReader, weight
from secmon_dagster.limits.network import Attempt, Listener

_CHUNK = 65_536
_MAX_UNREAD = 2 * 1024 * 1024
"""Weight of frames not yet dealt with at which the process has to wait before it sends more."""


class Link:
    """Registers itself with a selector, whose ready entries' ``data`` are called.

    Args:
        heard: called with each frame's payload.
        refused: called with the reason if the process could not enter its box.
        attempted: called for each refused attempt to reach the network; ``None`` if no listener for
            them will come, and a descriptor that does is not one.
        corrupted: called once if something else than frames comes in; then nothing more is read.
    """

    def __init__(
        self,
        channel: socket.socket,
        selector: selectors.BaseSelector,
        *,
        heard: Callable[[bytes], None],
        refused: Callable[[str], None],
        attempted: Callable[[Attempt], None] | None,
        corrupted: Callable[[str], None],
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._selector = selector
        self._heard, self._refused = heard, refused
        self._attempted, self._corrupted = attempted, corrupted
        self._reader = FrameReader()
        self._outbox = bytearray()
        self._unread = 0
        self._open = True
        self._entered = False
        self._listener: Listener | None = None
        self._listen()

    def send(self, data: bytes) -> None:
        """Send when the other end is ready for it; never waits."""
        self._outbox += data
        self._write()

    def consumed(self, size: int) -> None:
        """Payloads of this weight were dealt with."""
        self._unread -= size
        self._listen()

    def drain(self) -> None:
        """Read what the process left behind; it is gone, and who else has its end isn't heard."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        while self._open and self._receive():
            continue

    def close(self) -> None:
        self._open = False
        self._unlisten()
        self._channel.close()
        if self._listener is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _ready(self) -> None:
        if self._outbox:
            self._write()
        if self._unread <= _MAX_UNREAD:
            self._receive()
        self._listen()

    def _receive(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _CHUNK, 1)
        except BlockingIOError:
            return False
        except ConnectionError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            self._accept(descriptor)
        if not data:
            self._open = False
            return False
        try:
            payloads = self._reader.feed(data)
        except ChannelCorrupted as corrupted:
            self._open = False
            self._corrupted(f"wrote something else than events into its channel ({corrupted})")
            return False
        for payload in payloads:
            # Only before anything else is said: a process that runs did enter its box.
            if payload.startswith(entry.REFUSAL) and not self._entered:
                self._refused(payload[1:].decode("utf-8", "replace"))
            elif payload:
                self._unread += weight(payload)
                self._heard(payload)
            self._entered |= bool(payload)
        return True

    def _accept(self, descriptor: int) -> None:
        # The first one is sent before foreign code runs; any other is not ours to keep.
        if self._attempted is None or self._listener is not None or self._entered:
            os.close(descriptor)
            return
        self._listener = Listener(descriptor)
        self._selector.register(self._listener, selectors.EVENT_READ, self._answer)

    def _answer(self) -> None:
        if self._listener is None:
            return
        try:
            attempt = self._listener.answer()
        except OSError:
            # The process is gone, and its filter with it.
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            return
        if attempt is not None and self._attempted is not None:
            self._attempted(attempt)

    def _write(self) -> None:
        try:
            sent = self._channel.send(self._outbox)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Nobody reads any more; the exit will be reported in its own way.
            sent = len(self._outbox)
        del self._outbox[:sent]
        self._listen()

    def _listen(self) -> None:
        wanted = 0
        if self._open and self._unread <= _MAX_UNREAD:
            wanted |= selectors.EVENT_READ
        if self._open and self._outbox:
            wanted |= selectors.EVENT_WRITE
        known = self._selector.get_map().get(self._channel)
        if wanted == 0:
            self._unlisten()
        elif known is None:
            self._selector.register(self._channel, wanted, self._ready)
        elif known.events != wanted:
            self._selector.modify(self._channel, wanted, self._ready)

    def _unlisten(self) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._channel)
