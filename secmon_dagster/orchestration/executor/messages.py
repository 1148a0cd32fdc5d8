"""What a step and the run's process say to each other: one kind byte and JSON."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass
from enum import Enum

from secmon_dagster.errors import LimitsError
from secmon_dagster.limits.channel import encode_frame
from secmon_dagster.orchestration.dagster_internals import (
    ASSET_EVENTS,
    EventLogEntry,
    SerializableErrorInfo,
    deserialize_value,
    serialize_value,
)

STORED = b"A"
"""What the run's process answers once an event about an asset is stored."""

LIMIT_REACHED = b"V"
"""What the run's process says before it asks a step to stop at its limit."""


class Kind(bytes, Enum):
    """First byte of a frame."""

    EVENT = b"E"
    ERROR = b"X"
    DONE = b"D"


class BadMessage(LimitsError):  # noqa: N818 - the thing itself
    """A frame that holds no message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One frame, read. Nothing in it is unpickled; only Dagster's own record types are made."""

    kind: Kind
    entry: EventLogEntry | None = None
    error: SerializableErrorInfo | None = None


def read_message(payload: bytes) -> Message:
    """Read one frame that came from a step.

    Raises:
        BadMessage: it is not one.
    """
    try:
        kind = Kind(payload[:1])
        if kind is Kind.EVENT:
            return Message(kind, entry=deserialize_value(payload[1:].decode(), EventLogEntry))
        if kind is Kind.ERROR:
            error = deserialize_value(payload[1:].decode(), SerializableErrorInfo)
            return Message(kind, error=error)
        return Message(kind)
    except Exception as unreadable:
        # Whatever foreign bytes provoke in the reader, it is one thing here: not a message.
        raise BadMessage(
            f"{len(payload)} bytes that are no event ({type(unreadable).__name__})"
        ) from None


class StepLink:
    """The step's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._inode = os.fstat(channel.fileno()).st_ino
        self._ended = False

    def event(self, entry: EventLogEntry) -> None:
        """Hand an event to the run's process, which stores it.

        Returns once it is stored if it is about an asset: what the op asks of the instance next may
        depend on it.
        """
        event = entry.dagster_event
        waits = event is not None and event.event_type in ASSET_EVENTS
        self._send(Kind.EVENT, serialize_value(entry), waits=waits)

    def ended_at_a_limit(self) -> bool:
        """Whether the run's process has said that this step is over its limit."""
        with self._lock, contextlib.suppress(BlockingIOError):
            self._hear(self._channel.recv(64, socket.MSG_DONTWAIT))
        return self._ended

    def error(self, error: SerializableErrorInfo) -> None:
        """Say that the step could not be executed to its end."""
        self._send(Kind.ERROR, serialize_value(error))

    def done(self) -> None:
        """Say that nothing more will come."""
        self._send(Kind.DONE, "")

    def _send(self, kind: Kind, text: str, *, waits: bool = False) -> None:
        frame = encode_frame(kind.value + text.encode())
        # Ops log from threads of theirs.
        with self._lock:
            # An op that closed all descriptors may have opened something else on this number.
            if os.fstat(self._channel.fileno()).st_ino != self._inode:
                raise LimitsError("the step closed the channel its events go through")
            self._channel.sendall(frame)
            while waits and not self._hear(self._channel.recv(64)):
                continue

    def _hear(self, data: bytes) -> bool:
        """Take in what the run's process says; whether it acknowledges an event."""
        if not data:
            raise LimitsError("the run's process is gone")
        self._ended |= LIMIT_REACHED in data
        return STORED in data
