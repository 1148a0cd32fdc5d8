"""Limits of steps in containers: what Docker is asked for, and what is said at the end.

Against a stand-in for Docker's client, which remembers what it was asked; no daemon runs here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import dagster as dg
import pytest

pytest.importorskip("dagster_docker", reason="the extra 'docker' is not installed")

from dagster._core.definitions.job_base import InMemoryJob
from dagster_docker.container_context import DockerContainerContext

from secmon_dagster.errors import EnforcementUnavailableError, InvalidLimitsError
from secmon_dagster.limits import DEFAULT_LIMITS, ResourceLimits, limits
from secmon_dagster.orchestration.executor.docker import (
    LimitedDockerStepHandler,
    container_arguments,
    limited_docker_executor,
)

MB = 1 << 20


class Container:
    def __init__(self, *, running: bool, oom: bool = False, age: float = 0.0) -> None:
        started = datetime.now(UTC) - timedelta(seconds=age)
        self.attrs = {
            "State": {
                "Running": running,
                "OOMKilled": oom,
                "StartedAt": started.strftime("%Y-%m-%dT%H:%M:%S.123456789Z"),
            }
        }
        self.status = "running" if running else "exited"
        self.killed = False

    def kill(self) -> None:
        self.killed = True


class Client:
    """As much of Docker's client as a step handler uses."""

    def __init__(self, container: Container | None = None) -> None:
        self.asked: dict[str, object] = {}
        self.container = container
        self.containers = self

    def create(self, image: str, **arguments: object) -> Container:
        self.asked = {"image": image, **arguments}
        return Container(running=True)

    def list(self, **_: object) -> list[Container]:
        return [] if self.container is None else [self.container]

    def get(self, _: str) -> Container:
        return self.container


def handler_of(client: Client) -> LimitedDockerStepHandler:
    made = LimitedDockerStepHandler("image", DockerContainerContext(container_kwargs={"tty": True}))
    made._get_client = lambda _: client
    return made


def context_of(tags: dict[str, str]) -> SimpleNamespace:
    step = SimpleNamespace(node_handle=SimpleNamespace(name="train"), tags=tags)
    arguments = SimpleNamespace(
        run_id="run", step_keys_to_execute=["train"], known_state=None, get_command_args=list
    )
    run = SimpleNamespace(tags={}, job_name="job", job_code_origin=None)
    return SimpleNamespace(
        execute_step_args=arguments,
        dagster_run=run,
        instance=SimpleNamespace(run_launcher=None),
        get_step_context=lambda _: SimpleNamespace(step=step),
    )


@pytest.fixture(autouse=True)
def no_run_origin(monkeypatch):
    monkeypatch.setattr(
        DockerContainerContext, "create_for_run", lambda *_: DockerContainerContext()
    )


def test_a_declaration_becomes_the_arguments_of_its_container():
    client = Client()
    context = context_of(limits(memory="512MiB", cpu=50, processes=100))
    handler = handler_of(client)
    handler._create_step_container(
        client, handler._get_docker_container_context(context), "image", context
    )
    assert client.asked["mem_limit"] == client.asked["memswap_limit"] == 512 * MB
    assert client.asked["nano_cpus"] == 500_000_000
    assert client.asked["pids_limit"] == 100
    assert client.asked["tty"] is True


def test_memory_that_is_only_watched_is_left_without_a_limit():
    declared = ResourceLimits.of(memory="64MiB", enforce_memory=False).merge(DEFAULT_LIMITS)
    assert "mem_limit" not in container_arguments("train", declared)


@pytest.mark.parametrize("tags", [limits(network=False), {"secmon/layer": "strict"}])
def test_a_step_that_may_have_no_network_is_refused(tags):
    with pytest.raises(EnforcementUnavailableError, match="train"):
        handler_of(Client())._get_docker_container_context(context_of(tags))


def test_a_wrong_declaration_names_the_op():
    with pytest.raises(InvalidLimitsError, match="op train: max_memory_mb"):
        handler_of(Client())._get_docker_container_context(
            context_of({"secmon/limits": '{"maxMemoryMB": 16}'})
        )


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (Container(running=False, oom=True), "memory_limit_exceeded"),
        (Container(running=True, age=61), "time_limit_exceeded"),
    ],
)
def test_what_ended_a_container_is_named(container, words):
    context = context_of(limits(memory="64MiB", time="1m"))
    result = handler_of(Client(container)).check_step_health(context)
    assert not result.is_healthy
    assert words in result.unhealthy_reason
    assert container.killed is (words == "time_limit_exceeded")


def test_a_container_within_its_limits_is_healthy():
    context = context_of(limits(memory="64MiB", time="1m"))
    assert handler_of(Client(Container(running=True))).check_step_health(context).is_healthy


def test_the_executor_takes_the_configuration_of_dagster_s_own():
    @dg.op
    def one():
        return 1

    @dg.job(executor_def=limited_docker_executor)
    def in_containers():
        one()

    made = limited_docker_executor.executor_creation_fn(
        dg.InitExecutorContext(
            job=InMemoryJob(in_containers),
            executor_def=limited_docker_executor,
            executor_config={"image": "image", "retries": {"enabled": {}}},
            instance=dg.DagsterInstance.ephemeral(),
        )
    )
    assert isinstance(made._step_handler, LimitedDockerStepHandler)
