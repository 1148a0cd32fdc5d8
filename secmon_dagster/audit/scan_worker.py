"""A process that scans chunks of a chain for another one.

``python -m secmon_dagster.audit.scan_worker``: a JSON request on standard input, the pickled scans
on standard output. A program of its own instead of a fork or a multiprocessing child: the caller
may have threads, and its ``__main__`` must not run again.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psycopg

from secmon_dagster.audit.backends.postgres_snapshot import copy_rows, join
from secmon_dagster.audit.scan import Scan, scan
from secmon_dagster.errors import AuditError


def request(
    parameters: dict[str, Any],
    snapshot_id: str,
    chunks: Sequence[tuple[int, int]],
    sizes: list[int],
) -> subprocess.Popen[bytes]:
    """Start a worker on ``chunks`` (first and last seq of each)."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "secmon_dagster.audit.scan_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    # By pipe, not as argument: the parameters may hold a password.
    message = {"parameters": parameters, "snapshot": snapshot_id, "chunks": chunks, "sizes": sizes}
    worker.stdin.write(json.dumps(message).encode())
    worker.stdin.close()
    return worker


def answer(worker: subprocess.Popen[bytes]) -> list[Scan]:
    """The scans of a worker, in the order of its chunks.

    Raises:
        AuditError: it failed; its standard error says why.
    """
    assert worker.stdout is not None
    output = worker.stdout.read()
    if worker.wait() != 0:
        raise AuditError(f"a verification process ended with exit code {worker.returncode}")
    scans: list[Scan] = pickle.loads(output)  # noqa: S301 - written by our own child
    return scans


def scan_chunks(
    connection: psycopg.Connection[Any], chunks: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> list[Scan]:
    """Scan each chunk as a tree of its own; sizes are counted over the whole chain."""
    return [
        scan(
            copy_rows(connection, first, last),
            first,
            sizes=[size - first + 1 for size in sizes if first <= size <= last],
        )
        for first, last in chunks
    ]


def main() -> None:
    """Read the request, scan, write the answer."""
    message = json.load(sys.stdin)
    with psycopg.connect(**message["parameters"]) as connection:
        join(connection, message["snapshot"])
        scans = scan_chunks(connection, message["chunks"], message["sizes"])
    sys.stdout.buffer.write(pickle.dumps(scans))


if __name__ == "__main__":
    main()
