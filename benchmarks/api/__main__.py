"""The API: a read against the same query made directly, and the limiter at 64 clients.

Run: ``python -m benchmarks.api`` (needs SECMON_DATABASE_URL or a running embedded
server; it serves the API on a free port and removes what it makes).
"""

from __future__ import annotations

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
    port = free_port()
    environment = os.environ | {
        "SECMON_API_PORT": str(port),
        "SECMON_API_REQUESTS_PER_MINUTE": "10000",
    }
    command = [str(Path(sys.executable).parent / "secmon"), "api", "serve"]
    with subprocess.Popen(command, env=environment) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            while not answers(f"{url}/healthz"):
                time.sleep(0.1)
            compare(url, key, bot)
        finally:
            server.terminate()
    limiter()
    with database.connect(Role.OWNER) as connection:
        connection.execute("DELETE FROM agent_instances WHERE owner_id = %s", (OWNER,))
        connection.execute("DELETE FROM api_keys WHERE user_id = %s", (OWNER,))


def compare(url: str, key: str, bot: str) -> None:
    path = f"{url}/api/security/instances/{bot}/profile"
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
        through = median_ms(lambda: client.get(path).raise_for_status())

    def query() -> bytes:
        with transaction(Role.READER, user_id=OWNER) as connection:
            cursor = connection.execute(
                "SELECT * FROM instance_security_profiles WHERE instance_id = %s", (bot,)
            )
            return orjson.dumps([str(value) for value in cursor.fetchone() or ()])

    direct = median_ms(query)
    print(
        f"profile: API p50 {through:.2f} ms, direct p50 {direct:.2f} ms, "
        f"ratio {through / direct:.2f} (limit 2)"
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

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    off = abs(sum(allowed) - LIMIT) / LIMIT
    print(
        f"limiter: {CLIENTS} clients asked {len(allowed)} times in {seconds:.1f} s "
        f"({len(allowed) / seconds:,.0f}/s), {sum(allowed)} of {LIMIT} allowed, off by {off:.2%}"
    )
    with transaction(Role.SERVICE) as connection:
        connection.execute("DELETE FROM rate_limit_windows WHERE bucket = 'benchmark'")


def median_ms(act: Callable[[], object], rounds: int = 300) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


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
