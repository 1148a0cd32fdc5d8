"""Ops that make up events in their own name, well-formed and yet none that Dagster would send."""

import math
import os
import time

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster._core.events import (
    ComputeLogsCaptureData,
    EngineEventData,
    StepFailureData,
    StepOutputData,
    StepRetryData,
    StepSuccessData,
)
from dagster._core.execution.plan.objects import UserFailureData
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._utils.error import SerializableErrorInfo

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor

Kind = DagsterEventType


def _say(context, kind=None, data=None, **changes):
    """Send an event the way Dagster does, which is the way to the run's process."""
    step = context.get_step_execution_context().step
    event = None
    if kind is not None:
        event = DagsterEvent(kind.value, context.job_name, step.handle, event_specific_data=data)
    entry = {
        "error_info": None,
        "level": 20,
        "user_message": "made up",
        "run_id": context.run_id,
        "timestamp": time.time(),
        "step_key": step.key,
        "job_name": context.job_name,
        "dagster_event": event,
        **changes,
    }
    context.instance.handle_new_event(EventLogEntry(**entry))


def _error():
    return SerializableErrorInfo("made up", [], None)


@dg.op
def one() -> int:
    time.sleep(2)
    return 1


@dg.op
def plus_one(number: int) -> int:
    return number + 1


@dg.op
def speaks_from_the_end_of_time(context: dg.OpExecutionContext):
    _say(context, timestamp=1e30)
    time.sleep(30)


@dg.op
def speaks_at_no_time(context: dg.OpExecutionContext):
    _say(context, timestamp=math.nan)
    time.sleep(30)


@dg.op
def puts_out_what_is_anothers(context: dg.OpExecutionContext):
    data = StepOutputData(StepOutputHandle("plus_one", "result"))
    _say(context, Kind.STEP_OUTPUT, data)
    time.sleep(30)


@dg.op
def puts_out_one_of_many(context: dg.OpExecutionContext):
    handle = StepOutputHandle("puts_out_one_of_many", "result", "key")
    _say(context, Kind.STEP_OUTPUT, StepOutputData(handle))
    time.sleep(30)


@dg.op
def ends_twice(context: dg.OpExecutionContext):
    _say(context, Kind.STEP_FAILURE, StepFailureData(_error(), None))
    _say(context, Kind.STEP_SUCCESS, StepSuccessData(1.0))
    time.sleep(30)


@dg.op
def goes_on_when_it_is_over(context: dg.OpExecutionContext):
    _say(context, Kind.STEP_FAILURE, StepFailureData(_error(), None))
    while True:
        context.log.info("x" * 1024 * 1024)


@dg.op
def succeeds_although_its_resources_failed(context: dg.OpExecutionContext):
    _say(context, Kind.RESOURCE_INIT_FAILURE, EngineEventData(error=_error()))


@dg.op(tags=limits(time="1s"))
def waits_although_its_resources_failed(context: dg.OpExecutionContext):
    _say(context, Kind.RESOURCE_INIT_FAILURE, EngineEventData(error=_error()))
    time.sleep(30)


@dg.op
def tells_of_an_asset_without_one(context: dg.OpExecutionContext):
    _say(context, Kind.ASSET_OBSERVATION)
    time.sleep(30)


@dg.op
def tells_of_logs_without_any(context: dg.OpExecutionContext):
    _say(context, Kind.LOGS_CAPTURED)
    time.sleep(30)


@dg.op
def keeps_its_logs_where_none_belong(context: dg.OpExecutionContext):
    data = ComputeLogsCaptureData("../../../../elsewhere", [])
    _say(context, Kind.LOGS_CAPTURED, data)
    os._exit(3)


@dg.op
def claims_a_limit_ended_it(context: dg.OpExecutionContext):
    made_up = UserFailureData("resource-limit", "made up", {"violation": "memory_limit_exceeded"})
    _say(context, Kind.STEP_FAILURE, StepFailureData(_error(), made_up))


@dg.op
def wants_to_be_tried_again_at_no_time(context: dg.OpExecutionContext):
    _say(context, Kind.STEP_UP_FOR_RETRY, StepRetryData(_error(), math.nan))


@dg.op
def names_a_partition_postgresql_can_not_hold(context: dg.OpExecutionContext):
    context.log_event(dg.AssetObservation("a", partition="a\0b"))
    time.sleep(30)


@dg.op
def forges_and_leaves_at_once(context: dg.OpExecutionContext):
    _say(context, Kind.STEP_SUCCESS, StepSuccessData(1.0), run_id="another")
    os._exit(0)


@dg.job(executor_def=resource_limit_executor)
def forging():
    plus_one(one())
    speaks_from_the_end_of_time()
    speaks_at_no_time()
    puts_out_what_is_anothers()
    puts_out_one_of_many()
    ends_twice()
    goes_on_when_it_is_over()
    succeeds_although_its_resources_failed()
    waits_although_its_resources_failed()
    tells_of_an_asset_without_one()
    tells_of_logs_without_any()
    keeps_its_logs_where_none_belong()
    claims_a_limit_ended_it()
    wants_to_be_tried_again_at_no_time()
    names_a_partition_postgresql_can_not_hold()
    forges_and_leaves_at_once()
