"""The jobs that are compared: twenty trivial ops in a chain or side by side, and mapped ones."""

import dagster as dg

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
