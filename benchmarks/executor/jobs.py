"""The jobs that are compared: twenty trivial ops in a chain or side by side, and mapped ones."""

import mmap
import struct
import sys
import time
from pathlib import Path

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor

STEPS = 20


@dg.op
def first() -> int:
    return 0


@dg.op
def plus_one(number: int) -> int:
    return number + 1


@dg.op(out=dg.DynamicOut(int), config_schema={"count": int})
def many(context):
    for number in range(context.op_config["count"]):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.graph
def chain():
    value = first()
    for number in range(STEPS - 1):
        value = plus_one.alias(f"step_{number}")(value)


@dg.graph
def parallel():
    for number in range(STEPS):
        first.alias(f"step_{number}")()


@dg.graph
def mapped():
    many().map(plus_one)


EXECUTORS = {
    "in_process": dg.in_process_executor,
    "stock": dg.multiprocess_executor,
    "boxed": resource_limit_executor,
}


def make(graph: dg.GraphDefinition, executor: str) -> dg.JobDefinition:
    return graph.to_job(name=f"{graph.name}_{executor}", executor_def=EXECUTORS[executor])


def chain_in_process():
    return make(chain, "in_process")


def chain_stock():
    return make(chain, "stock")


def chain_boxed():
    return make(chain, "boxed")


def parallel_in_process():
    return make(parallel, "in_process")


def parallel_stock():
    return make(parallel, "stock")


def parallel_boxed():
    return make(parallel, "boxed")


def mapped_boxed():
    return make(mapped, "boxed")


@dg.op
def loaded() -> list[str]:
    """What a step finds imported: the zygote's modules, for a fair list to preload elsewhere."""
    return sorted(name for name in sys.modules if not name.startswith("__"))


@dg.job(executor_def=resource_limit_executor)
def modules_boxed():
    loaded()


@dg.op(tags=limits(memory="64MiB"), config_schema={"clock": str})
def over_its_memory(context):
    """Writes down the time between allocations, so that the last one is when it was ended."""
    with Path(context.op_config["clock"]).open("r+b") as file:
        clock = mmap.mmap(file.fileno(), 8)
    kept = []
    while True:
        kept.append(bytearray(1 << 20))
        clock[:] = struct.pack("d", time.time())


@dg.job(executor_def=resource_limit_executor)
def violating_boxed():
    over_its_memory()
