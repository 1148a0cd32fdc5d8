"""A process that scans chunks of a chain for another one.

``python -m secmon_dagster.audit.scan_worker``: a JSON request on standard input, the pickled scans
on standard output. A program of its own instead of a fork or a multiprocessing child: the caller
may have threads, and its ``__main__`` must not run again.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from secmon_dagster.audit.backends.postgres_snapshot import copy_rows, join
from secmon_dagster.audit.scan import Scan, scan
from secmon_dagster.errors import AuditError

# Bytes of a chunk's number in the pipe. Reads of whole numbers are atomic.
_NUMBER = 4

Chunk = tuple[int, int]


@contextmanager
def chunk_numbers(count: int) -> Iterator[int]:
    """A pipe from which all processes draw the number of their next chunk, until it is empty: who
    starts late or is slow does less.

    Args:
        count: how many; at most 16,384, what a pipe holds.
    """
    numbers, write_end = os.pipe()
    try:
        os.write(write_end, b"".join(number.to_bytes(_NUMBER) for number in range(count)))
        os.close(write_end)
        yield numbers
    finally:
        os.close(numbers)


def request(
    parameters: dict[str, Any],
    snapshot_id: str,
    chunks: Sequence[Chunk],
    numbers: int,
    sizes: Sequence[int],
) -> subprocess.Popen[bytes]:
    """Start a worker on ``chunks`` (first and last seq of each), of which it draws its own."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "secmon_dagster.audit.scan_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[numbers],
    )
    assert worker.stdin is not None
    # By pipe, not as argument: the parameters may hold a password.
    message = {
        "parameters": parameters,
        "snapshot": snapshot_id,
        "chunks": chunks,
        "numbers": numbers,
        "sizes": list(sizes),
    }
    worker.stdin.write(json.dumps(message).encode())
    worker.stdin.close()
    return worker


def answer(worker: subprocess.Popen[bytes]) -> dict[int, Scan]:
    """The scans of a worker, by number of the chunk.

    Raises:
        AuditError: it failed; its standard error says why.
    """
    assert worker.stdout is not None
    output = worker.stdout.read()
    if worker.wait() != 0:
        raise AuditError(f"a verification process ended with exit code {worker.returncode}")
    scans: dict[int, Scan] = pickle.loads(output)  # noqa: S301 - written by our own child
    return scans


def scan_chunks(
    connection: psycopg.Connection[Any],
    chunks: Sequence[Chunk],
    numbers: int,
    sizes: Sequence[int],
) -> dict[int, Scan]:
    """Draw chunks and scan each as a tree of its own; sizes ascend and count the whole chain."""
    scans = {}
    while drawn := os.read(numbers, _NUMBER):
        number = int.from_bytes(drawn)
        first, last = chunks[number]
        inside = sizes[bisect_left(sizes, first) : bisect_right(sizes, last)]
        scans[number] = scan(
            copy_rows(connection, first, last), first, sizes=[size - first + 1 for size in inside]
        )
    return scans


def main() -> None:
    """Read the request, scan, write the answer."""
    message = json.load(sys.stdin)
    with psycopg.connect(**message["parameters"]) as connection:
        join(connection, message["snapshot"])
        scans = scan_chunks(connection, message["chunks"], message["numbers"], message["sizes"])
    sys.stdout.buffer.write(pickle.dumps(scans))


if __name__ == "__main__":
    main()
