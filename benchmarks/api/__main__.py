"""The API: a read against the same query made directly, and the limiter at 64 clients.

Run: ``python -m benchmarks.api`` (needs SECMON_DATABASE_URL or a running embedded
server; it serves the API on a free port and removes what it makes).
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import orjson

from secmon_dagster import database
from secmon_dagster.database import Role, transaction
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService, Session
from secmon_dagster.posture.keys import create_key

OWNER = "benchmark"
CLIENTS = 64
LIMIT = 2000
LAYER_LIMIT = 1000


def main() -> None:
    database.migrate()
    agents, security = AgentManagementService(), SecurityMonitoringService()
    bot = agents.create_instance("bot", owner_id=OWNER).instance_id
    security.attach_security_layer_to_instance(bot, "default")
    with transaction(Role.SERVICE) as connection:
        connection.execute(
            "INSERT INTO instance_activities (instance_id, action, prompt) "
            "SELECT %s, 'act', 'hello' FROM generate_series(1, 1000)",
            (bot,),
        )
    _, key = create_key(Session.open(), user_id=OWNER, role="viewer")
    layer = security.create_security_layer(
        f"benchmark {time.time()}", config={"max_requests_per_minute": LAYER_LIMIT}
    )
    security.attach_security_layer_to_instance(bot, layer.layer_id)
    _, agents_key = create_key(Session.open(), user_id=OWNER, role="viewer", instance_id=bot)
    port = free_port()
    environment = os.environ | {
        "SECMON_API_PORT": str(port),
        "SECMON_API_REQUESTS_PER_MINUTE": "10000",
    }
    command = [str(Path(sys.executable).parent / "secmon"), "api", "serve"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while not answers(f"{url}/healthz"):
                time.sleep(0.1)
            compare(port, key, bot)
            limiter_through_the_api(port, agents_key)
        finally:
            server.terminate()
    limiter()
    with database.connect(Role.OWNER) as connection:
        connection.execute("DELETE FROM agent_instances WHERE owner_id = %s", (OWNER,))
        connection.execute("DELETE FROM api_keys WHERE user_id = %s", (OWNER,))
        connection.execute("DELETE FROM security_layers WHERE layer_id = %s", (layer.layer_id,))


def compare(port: int, key: str, bot: str) -> None:
    """Turn and turn about, so that both see the same machine; over a kept connection and without
    a client library, whose own time isn't the API's."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def through() -> bytes:
        return get(connection, f"/api/security/instances/{bot}/profile", key)[1]

    def direct() -> bytes:
        with transaction(Role.READER, user_id=OWNER) as connection:
            cursor = connection.execute(
                "SELECT * FROM instance_security_profiles WHERE instance_id = %s", (bot,)
            )
            return orjson.dumps([str(value) for value in cursor.fetchone() or ()])

    times: dict[Callable[[], bytes], list[float]] = {through: [], direct: []}
    for _ in range(500):
        for act, taken in times.items():
            started = time.perf_counter()
            act()
            taken.append((time.perf_counter() - started) * 1000)
    api, query = (statistics.median(taken) for taken in times.values())
    print(
        f"profile: API p50 {api:.2f} ms, direct p50 {query:.2f} ms, "
        f"ratio {api / query:.2f} (limit 2)"
    )


def get(connection: http.client.HTTPConnection, path: str, key: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def limiter_through_the_api(port: int, key: str) -> None:
    """64 clients of one agent's key, whose layer allows 1000 a minute, ask 1600 times."""
    statuses: list[int] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        statuses.extend(get(connection, "/api/security/layers/default", key)[0] for _ in range(25))

    seconds = at_once(client)
    allowed = statuses.count(200)
    print(
        f"limiter through the API: {CLIENTS} clients asked {len(statuses)} times in "
        f"{seconds:.1f} s, {allowed} of {LAYER_LIMIT} allowed, "
        f"off by {abs(allowed - LAYER_LIMIT) / LAYER_LIMIT:.2%} (limit 1 %), "
        f"the others {sorted(set(statuses) - {200})}"
    )


def limiter() -> None:
    allowed = []

    def client() -> None:
        with database.connect(Role.SERVICE, autocommit=True) as connection:
            for _ in range(60):
                row = connection.execute(
                    "SELECT allowed FROM rate_limit_hit('benchmark', %s)", (LIMIT,)
                ).fetchone()
                allowed.append(bool(row and row[0]))

    seconds = at_once(client)
    off = abs(sum(allowed) - LIMIT) / LIMIT
    print(
        f"limiter: {CLIENTS} clients asked {len(allowed)} times in {seconds:.1f} s "
        f"({len(allowed) / seconds:,.0f}/s), {sum(allowed)} of {LIMIT} allowed, off by {off:.2%}"
    )
    with transaction(Role.SERVICE) as connection:
        connection.execute("DELETE FROM rate_limit_windows WHERE bucket = 'benchmark'")


def at_once(client: Callable[[], None]) -> float:
    """Run ``client`` in 64 threads; seconds until the last has ended."""
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
