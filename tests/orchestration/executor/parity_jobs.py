"""Graphs after Dagster's own tests of its executors, each as a job of both executors."""

import os
import signal
import sys
import time

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.dagster_internals import ReconstructableJob
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op
def one() -> int:
    return 1


@dg.op
def plus_one(number: int) -> int:
    return number + 1


@dg.op
def added(left: int, right: int) -> int:
    assert (left, right) == (2, 2)
    return left + right


# --- dynamic outputs ------------------------------------------------------------------------------


@dg.op(out=dg.DynamicOut())
def three_parts():
    for number in range(3):
        yield dg.DynamicOutput(number, mapping_key=f"part_{number}")


@dg.op(out=dg.DynamicOut(is_required=False))
def no_parts():
    yield from ()


@dg.op
def double(number: int) -> int:
    return 2 * number


@dg.op
def total(numbers: list[int]) -> int:
    assert sorted(numbers) == [0, 2, 4]
    return sum(numbers)


@dg.op
def total_of_none(numbers: list[int]) -> int:
    assert numbers == []
    return 0


# --- choices, retries, failures -------------------------------------------------------------------


@dg.op(out={"yes": dg.Out(is_required=False), "no": dg.Out(is_required=False)})
def chooses_yes():
    yield dg.Output(1, "yes")


@dg.op
def after_it(value):
    return value


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2))
def asks_for_a_second_attempt(context: dg.OpExecutionContext):
    if context.retry_number == 0:
        raise dg.RetryRequested(max_retries=2)


@dg.op(
    retry_policy=dg.RetryPolicy(
        max_retries=2, delay=0.05, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL
    )
)
def fails_three_times():
    raise ValueError("each time")


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2))
def fails_for_good():
    raise dg.Failure("no use trying again", allow_retries=False)


@dg.op
def fails_on_purpose():
    raise dg.Failure("on purpose", metadata={"why": "a test"})


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def dies_once(context: dg.OpExecutionContext):
    if context.retry_number == 0:
        os._exit(9)


@dg.op
def leaves():
    sys.exit(3)


@dg.op
def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


@dg.op
def gives_the_wrong_type() -> int:
    return "text"


# --- resources and hooks --------------------------------------------------------------------------


@dg.resource
def works(_):
    return "works"


@dg.resource
def is_broken(_):
    raise RuntimeError("no such server")


@dg.op(required_resource_keys={"works"})
def uses_what_works(context: dg.OpExecutionContext):
    assert context.resources.works == "works"


@dg.op(required_resource_keys={"is_broken"})
def uses_what_is_broken():
    raise AssertionError("must not be reached")


@dg.success_hook
def on_success(context: dg.HookContext):
    context.log.info("hook of success")


@dg.failure_hook
def on_failure(context: dg.HookContext):
    context.log.info(f"hook of failure: {context.op_exception}")


@dg.op
def fails_with_a_hook():
    raise ValueError("told to a hook")


@dg.graph
def everyday():
    start = one()
    added(plus_one.alias("left")(start), plus_one.alias("right")(start))
    total(three_parts().map(double).collect())
    total_of_none(no_parts().map(double.alias("double_of_none")).collect())
    yes, no = chooses_yes()
    after_it.alias("taken")(yes)
    after_it.alias("not_taken")(no)
    asks_for_a_second_attempt()
    fails_three_times()
    fails_for_good()
    after_it.alias("after_the_failure")(fails_on_purpose())
    dies_once()
    leaves()
    crashes()
    gives_the_wrong_type()
    uses_what_works()
    uses_what_is_broken()
    one.with_hooks({on_success}).alias("with_a_hook")()
    fails_with_a_hook.with_hooks({on_failure})()


@dg.graph
def retries_off():
    asks_for_a_second_attempt()
    fails_three_times()


# --- who runs when --------------------------------------------------------------------------------


@dg.op
def takes_a_while():
    time.sleep(0.3)


@dg.graph
def by_priority():
    for priority in (1, 5, -3, 2):
        one.alias(f"priority_{priority + 3}").tag({"dagster/priority": str(priority)})()


@dg.op(pool="narrow")
def holds_a_pool():
    time.sleep(0.3)


@dg.graph
def in_turns():
    for name in ("first", "second"):
        holds_a_pool.alias(f"{name}_of_the_pool")()
        takes_a_while.alias(f"{name}_of_the_tag").tag({"database": "narrow"})()
        takes_a_while.alias(f"{name}_of_the_budget").tag(limits(memory="300MiB"))()


@dg.op
def waits(context: dg.OpExecutionContext):
    context.log.info(f"pid {os.getpid()}")
    time.sleep(120)


@dg.graph
def cancelled():
    after_it(waits())


EXECUTORS = {"boxed": resource_limit_executor, "stock": dg.multiprocess_executor}
RESOURCES = {"works": works, "is_broken": is_broken}
GRAPHS = (everyday, retries_off, by_priority, in_turns, cancelled)
globals().update(
    {
        f"{graph.name}_{name}": graph.to_job(
            name=f"{graph.name}_{name}", executor_def=executor, resource_defs=RESOURCES
        )
        for graph in GRAPHS
        for name, executor in EXECUTORS.items()
    }
)


def job_of(graph: str, executor: str) -> ReconstructableJob:
    """One of the jobs, as another process can load it."""
    return ReconstructableJob.for_module("parity_jobs", f"{graph}_{executor}")
