"""A pipeline whose ops each declare what they may use."""

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op(tags=limits(memory="128MiB", cpu=50, time="30s"))
def load() -> list[int]:
    return list(range(1000))


@dg.op(tags=limits(memory="256MiB", cpu=80, time="1m"))
def train(numbers: list[int]) -> float:
    return sum(numbers) / len(numbers)


@dg.op(tags=limits(memory="128MiB", cpu=50, time="30s"))
def evaluate(mean: float) -> bool:
    return mean > 0


@dg.job(executor_def=resource_limit_executor)
def basic_limits():
    evaluate(train(load()))
