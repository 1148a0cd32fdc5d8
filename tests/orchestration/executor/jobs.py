"""Jobs the executor's tests run; each under any executor that the run's configuration names."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

from secmon_dagster.limits import LAYER_TAG, limits
from secmon_dagster.orchestration.executor import resource_limit_executor
from secmon_dagster.settings import get_settings

MB = 1024 * 1024


@dg.op
def one() -> int:
    return 1


@dg.op
def plus_one(context: dg.OpExecutionContext, number: int) -> int:
    context.log.info(f"adding to {number}")
    sys.stdout.write("to stdout\n")
    return number + 1


@dg.job(executor_def=resource_limit_executor)
def chain():
    plus_one.alias("third")(plus_one.alias("second")(one()))


# --- every way a limit can be passed, each in an op of one run ------------------------------------


@dg.op(tags=limits(memory="64MiB"))
def memory_in_the_op():
    kept = []
    while True:
        kept.append(bytearray(MB))


def hold(size: int) -> None:
    """Long enough to be seen where limits are sampled, however busy the machine."""
    held = bytearray(size)
    time.sleep(30)
    del held


@dg.op(tags=limits(memory="64MiB"))
def memory_in_a_child():
    code = f"import time; held = bytearray({300 * MB}); time.sleep(30)"
    subprocess.run([sys.executable, "-c", code], check=False)


@dg.op(tags=limits(memory="64MiB"))
def memory_in_a_grandchild_that_forked_twice():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            hold(300 * MB)
        os._exit(0)
    time.sleep(30)


@dg.op(tags=limits(memory="64MiB", time="30s"))
def memory_leaks_slowly():
    kept = []
    for _ in range(300):
        kept.append(bytearray(MB))
        time.sleep(0.005)


@dg.op(tags=limits(memory="64MiB"))
def memory_in_files(context: dg.OpExecutionContext):
    place = Path(f"/dev/shm/secmon-test-{context.run_id}")
    with place.open("wb") as target:
        place.unlink()
        for _ in range(300):
            target.write(b"x" * MB)


@dg.op(tags=limits(time="1s"))
def time_asleep():
    time.sleep(60)


@dg.op(tags=limits(time="1s"))
def time_in_python():
    while True:
        pass


@dg.op(tags=limits(time="1s"))
def time_ignoring_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


@dg.op(tags=limits(time="1s"))
def time_in_c_holding_the_gil():
    pow(3, 7**10_000_000)


@dg.op(tags=limits(cpu=10, time="60s", enforce_cpu=True))
def sustained_cpu():
    while True:
        pass


@dg.op(tags=limits(cpu=3, time="60s"))
def sustained_cpu_watched():
    # So little, and in CPU time, so that it is at its quota however busy the machine.
    until, wall = time.process_time() + 0.1, time.monotonic() + 2.5
    while time.process_time() < until or time.monotonic() < wall:
        pass


@dg.op(tags=limits(processes=30, time="30s"))
def fork_bomb():
    for _ in range(200):
        subprocess.Popen(["sleep", "30"])
    time.sleep(30)


@dg.op(tags=limits(network=False))
def network_by_tcp():
    socket.create_connection(("192.0.2.1", 80), 1)


@dg.op(tags=limits(network=False))
def network_by_udp():
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))


@dg.op(tags=limits(network=False))
def network_by_dns():
    socket.getaddrinfo("name.example", 80)


@dg.op(tags=limits(network=False))
def network_by_ipv6():
    socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80))


@dg.op(tags=limits(network=False))
def network_by_abstract_socket():
    socket.socket(socket.AF_UNIX).connect("\0secmon-test")


@dg.op(tags=limits(network=False))
def network_by_a_name_no_database_can_hold():
    socket.socket(socket.AF_UNIX).connect("\0secmon\0test")


@dg.op(tags=limits(network=False))
def no_network_and_content():
    left, right = socket.socketpair()
    left.send(b"x")
    assert right.recv(1) == b"x"


def _sees_a_secret() -> bool:
    block = Path("/proc/self/environ").read_text()
    found = os.environ.get("SECMON_DATABASE_URL") or get_settings().database_url
    return bool(found) or "postgresql" in block


@dg.op
def sees_the_secrets_of_the_run():
    assert _sees_a_secret()


@dg.op(tags={LAYER_TAG: "strict"})
def sees_no_secret_in_a_layer_without_network():
    assert not _sees_a_secret()
    assert os.environ["PATH"]


@dg.job(executor_def=resource_limit_executor)
def rows():
    one()
    sees_the_secrets_of_the_run()
    sees_no_secret_in_a_layer_without_network()
    memory_in_the_op()
    memory_in_a_child()
    memory_in_a_grandchild_that_forked_twice()
    memory_leaks_slowly()
    memory_in_files()
    time_in_python()
    time_ignoring_sigterm()
    time_in_c_holding_the_gil()
    sustained_cpu()
    sustained_cpu_watched()
    fork_bomb()
    network_by_tcp()
    network_by_udp()
    network_by_dns()
    network_by_ipv6()
    network_by_abstract_socket()
    network_by_a_name_no_database_can_hold()
    no_network_and_content()


# --- hooks ----------------------------------------------------------------------------------------


@dg.failure_hook
def on_failure(context: dg.HookContext):
    error = context.op_exception
    kind = getattr(error, "context", {}).get("type")
    context.log.info(f"hook saw {type(error).__name__} {kind}")


# --- retries of violations ------------------------------------------------------------------------


@dg.op(tags=limits(memory="64MiB"), retry_policy=dg.RetryPolicy(max_retries=1, delay=0.1))
def needs_a_second_attempt(context: dg.OpExecutionContext):
    if context.retry_number == 0:
        hold(300 * MB)
    return context.retry_number


@dg.failure_hook
def reaches_out(context: dg.HookContext):
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), 0.1)


@dg.op(tags={LAYER_TAG: "strict", **limits(time="1s")})
def time_asleep_in_a_layer_without_network():
    time.sleep(60)


@dg.job(executor_def=resource_limit_executor, hooks={on_failure})
def violated():
    time_asleep_in_a_layer_without_network.with_hooks({reaches_out})()
    memory_in_the_op()
    time_asleep()
    needs_a_second_attempt()


# --- resources and assets ---------------------------------------------------------------------


class Greeter(dg.ConfigurableResource):
    greeting: str

    def greet(self) -> str:
        return f"{self.greeting} from {os.getpid()}"


@dg.asset
def written(context: dg.AssetExecutionContext, greeter: Greeter) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"greeting": greeter.greet()})


@dg.asset(deps=[written])
def reads_what_was_written(context: dg.AssetExecutionContext) -> None:
    event = context.instance.get_latest_materialization_event(dg.AssetKey("written"))
    assert event is not None
    context.log_event(dg.AssetObservation("written", metadata={"seen": True}))
    seen = context.instance.fetch_observations(dg.AssetKey("written"), limit=1).records
    assert len(seen) == 1, "an event is stored when the op goes on"


@dg.asset_check(asset=written)
def is_fine() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.op
def waits_politely(context: dg.OpExecutionContext):
    context.log.info(f"pid {os.getpid()}")
    time.sleep(120)


@dg.op
def does_not_listen(context: dg.OpExecutionContext):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.log.info(f"pid {os.getpid()}")
    while True:
        time.sleep(1)


@dg.op
def hides_a_process(context: dg.OpExecutionContext):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            context.log.info(f"pid {os.getpid()}")
            time.sleep(120)
        os._exit(0)
    time.sleep(120)


@dg.job(executor_def=resource_limit_executor)
def waits():
    waits_politely()
    does_not_listen()
    hides_a_process()


assets = dg.Definitions(
    assets=[written, reads_what_was_written],
    asset_checks=[is_fine],
    resources={"greeter": Greeter(greeting="hello")},
    jobs=[dg.define_asset_job("all_assets")],
    executor=resource_limit_executor,
)


def define_assets_job():
    return assets.resolve_job_def("all_assets")
