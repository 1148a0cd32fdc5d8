"""A job of the strict layer: 256 MB, three minutes, no network, whatever its ops declare."""

import socket

import dagster as dg

from secmon_dagster.limits import LAYER_TAG, limits
from secmon_dagster.orchestration.executor import resource_limit_executor


@dg.op(tags=limits(memory="4GiB", network=True))
def asks_for_more_than_its_layer_has() -> None:
    socket.create_connection(("192.0.2.1", 443), timeout=5)


@dg.op
def stays_inside() -> int:
    return 1


@dg.job(executor_def=resource_limit_executor, tags={LAYER_TAG: "strict"})
def layers():
    asks_for_more_than_its_layer_has()
    stays_inside()
