"""Other bytes while a file is downloaded from the real server: what arrives is what was judged."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from secmon_dagster.api.app import create_app
from secmon_dagster.api.packages import gatekeeper
from secmon_dagster.gate import Gatekeeper
from secmon_dagster.gate.approval import State
from secmon_dagster.gate.artifact import Artifact
from tests.gate.swaps import SWAPS, emptied, overwritten, unlinked_copies

Get = Callable[..., http.client.HTTPResponse]


@pytest.fixture
def port(database) -> Iterator[int]:
    """The server's, in this very process: its descriptors can be got at."""
    gatekeeper.cache_clear()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # What the kernel takes on the way must be small, or the server is done at once.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def get(port, key) -> Iterator[Get]:
    """Ask for an artifact; returns when the headers are there, and reads no further."""
    opened = []

    def ask(artifact: Artifact, **headers: str) -> http.client.HTTPResponse:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        opened.append(client)
        client.connect()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.request("GET", f"/packages/{artifact.id}", headers={**key("viewer"), **headers})
        return client.getresponse()

    yield ask
    for client in opened:
        client.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """More than the sockets hold."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "array.npy"
    np.save(path, np.arange(3 << 20, dtype=np.int64))
    return path


@pytest.fixture
def artifact(database, file) -> Artifact:
    return Gatekeeper().register(file, "array", "data", "ann")


RANGES = [({}, 0), ({"Range": "bytes=2000000-"}, 2_000_000)]


@pytest.mark.parametrize(("asked", "first"), RANGES)
@pytest.mark.parametrize("swap", SWAPS)
def test_the_file_swapped_while_a_slow_client_reads(get, artifact, file, swap, asked, first):
    good = file.read_bytes()
    answer = get(artifact, **asked)
    begun = answer.read(100_000)
    assert unlinked_copies(), "the server is done: nothing is swapped under it"
    swap(file)
    assert begun + answer.read() == good[first:]


@pytest.mark.parametrize(("asked", "first"), RANGES)
@pytest.mark.parametrize("swap", [overwritten, emptied])
def test_the_servers_own_copy_overwritten_while_a_slow_client_reads(
    get, artifact, file, swap, asked, first
):
    good = file.read_bytes()[first:]
    answer = get(artifact, **asked)
    arrived = answer.read(100_000)
    (copy,) = unlinked_copies()
    size = copy.stat().st_size
    swap(copy)
    with pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    arrived += broken.value.partial
    assert len(arrived) < len(good)
    assert good.startswith(arrived)
    assert size == file.stat().st_size
    assert get(artifact).read() == file.read_bytes()


@pytest.mark.parametrize("swap", SWAPS)
def test_no_way_of_asking_again_gets_swapped_bytes(get, artifact, file, swap):
    """The verdict is cached, and the client holds the ETag of the good bytes."""
    first = get(artifact)
    tag, _ = first.headers["ETag"], first.read()
    assert get(artifact, **{"If-None-Match": tag}).status == 304
    swap(file)
    for headers in (
        {}, {"If-None-Match": tag}, {"If-None-Match": "*"}, {"If-Match": tag},
        {"Range": "bytes=0-9"}, {"Range": "bytes=0-9", "If-Range": tag}, {"Range": "bytes=-1"},
        {"Range": "bytes=99999999999-"}, {"Range": "bytes=0-9", "If-Range": '"other"'},
    ):  # fmt: skip
        answer = get(artifact, **headers)
        assert answer.status in (403, 404, 422), (headers, answer.status)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["ETag"] is None


def test_an_approval_of_the_old_bytes_sends_no_new_ones(get, file, database):
    keeper = Gatekeeper()
    options = {"artifact_id": "array", "require_approval": True}
    made = keeper.register(file, "array", "data", "ann", **options)
    asked = keeper.request_approval(made.id, "bob")
    keeper.decide(asked.id, State.APPROVED, "eve")
    answer = get(made)
    assert answer.status == 200
    begun = answer.read(100_000)
    good = file.read_bytes()
    np.save(file, np.zeros(5))
    assert get(made).status == 403
    keeper.register(file, "array", "data", "ann", **options)
    assert get(made, Range="bytes=0-9").status == 403
    assert begun + answer.read() == good
