"""A violation as Dagster shows it: metadata, an engine event, a step failure or retry."""

from __future__ import annotations

from collections.abc import Mapping

from dagster import DagsterEvent, MetadataValue

from secmon_dagster.limits.declaration import ResourceLimits
from secmon_dagster.limits.evidence import KillReason, cause, how_it_ended
from secmon_dagster.limits.violation import ResourceUsage, Violation
from secmon_dagster.limits.watched import Ended
from secmon_dagster.orchestration.dagster_internals import (
    EngineEventData,
    ErrorSource,
    IStepContext,
    KnownExecutionState,
    RawMetadataValue,
    SerializableErrorInfo,
    StepFailureData,
    StepRetryData,
    UserFailureData,
)

FAILURE_LABEL = "resource-limit"


def violation_metadata(violation: Violation) -> dict[str, RawMetadataValue]:
    """What the UI shows beside a violation."""
    metadata: dict[str, RawMetadataValue] = {
        "violation": violation.type.value,
        "severity": violation.severity.value,
        "enforcement": violation.enforcement,
        "unit": violation.unit or "",
    }
    if violation.limit is not None:
        metadata["limit"] = violation.limit
    if violation.observed is not None:
        metadata["observed"] = violation.observed
    if violation.evidence:
        metadata["evidence"] = MetadataValue.json(dict(violation.evidence))
    return metadata


def usage_metadata(usage: ResourceUsage, enforcement: str) -> dict[str, RawMetadataValue]:
    """What a step used, as numbers the UI plots."""
    metadata: dict[str, RawMetadataValue] = {
        "enforcement": enforcement,
        "wall_seconds": round(usage.wall_seconds, 3),
    }
    for name, value in (
        ("cpu_seconds", usage.cpu_seconds),
        ("throttled_seconds", usage.throttled_seconds),
    ):
        if value is not None:
            metadata[name] = round(value, 3)
    for name, size in (
        ("peak_memory_mb", usage.peak_memory_bytes),
        ("read_mb", usage.read_bytes),
        ("written_mb", usage.written_bytes),
    ):
        if size is not None:
            metadata[name] = round(size / 2**20, 1)
    return metadata


def violation_event(step_context: IStepContext, violation: Violation) -> DagsterEvent:
    """The engine event of a violation, ended or only warned of."""
    return DagsterEvent.engine_event(
        step_context,
        f"Step {step_context.step.key} {violation.message}.",
        EngineEventData(
            metadata=violation_metadata(violation),
            error=_error(step_context, violation) if violation.severity.ends_execution else None,
        ),
    )


def usage_event(
    step_context: IStepContext, metadata: Mapping[str, RawMetadataValue]
) -> DagsterEvent:
    """The engine event that carries a step's usage."""
    return DagsterEvent.engine_event(
        step_context,
        f"Resource usage of step {step_context.step.key}.",
        EngineEventData(metadata=metadata),
    )


def limit_failure(
    step_context: IStepContext, known_state: KnownExecutionState, violation: Violation
) -> DagsterEvent:
    """``STEP_UP_FOR_RETRY`` if the op's policy has attempts left, else ``STEP_FAILURE``.

    A retry can carry no metadata; the engine event before it does.
    """
    error = _error(step_context, violation)
    return _retry(step_context, known_state, error) or DagsterEvent.step_failure_event(
        step_context,
        StepFailureData(
            error=error,
            error_source=ErrorSource.FRAMEWORK_ERROR,
            user_failure_data=UserFailureData(
                label=FAILURE_LABEL,
                description=error.message,
                metadata=violation_metadata(violation),
            ),
        ),
    )


def plain_failure(
    step_context: IStepContext,
    known_state: KnownExecutionState,
    error: SerializableErrorInfo,
    *,
    source: ErrorSource = ErrorSource.FRAMEWORK_ERROR,
    may_retry: bool = True,
) -> DagsterEvent:
    """A failure that no limit caused."""
    retry = _retry(step_context, known_state, error) if may_retry else None
    return retry or DagsterEvent.step_failure_event(
        step_context,
        StepFailureData(error=error, user_failure_data=None, error_source=source),
    )


def forgery(what: str, limits: ResourceLimits, ended: Ended) -> Violation | None:
    """The violation of a step that was over before it could be ended for what it sent."""
    return cause(
        limits, ended.evidence, KillReason.PROTOCOL, enforcement=ended.enforcement, detail=what
    )


def crash_error(step_key: str, ended: Ended) -> SerializableErrorInfo:
    """What is known of a step that ended without a word."""
    how = ended.detail or how_it_ended(ended.exit_code, ended.signal)
    killed = " No limit was reached: the kernel reports no out-of-memory kill in its box."
    return SerializableErrorInfo(
        message=f"The process of step {step_key} {how} before the step was over."
        f"{killed if ended.signal == 9 else ''}\n",
        stack=[],
        cls_name="StepProcessCrashed",
    )


def _retry(
    step_context: IStepContext, known_state: KnownExecutionState, error: SerializableErrorInfo
) -> DagsterEvent | None:
    policy = step_context.op_retry_policy
    attempts = known_state.get_retry_state().get_attempt_count(step_context.step.key)
    if policy is None or step_context.retry_mode.disabled or attempts >= policy.max_retries:
        return None
    delay = policy.calculate_delay(attempts + 1)
    return DagsterEvent.step_retry_event(
        step_context, StepRetryData(error=error, seconds_to_wait=delay)
    )


def _error(step_context: IStepContext, violation: Violation) -> SerializableErrorInfo:
    return SerializableErrorInfo(
        message=f"{violation.type.value}: step {step_context.step.key} {violation.message}.\n",
        stack=[],
        cls_name="LimitExceededError",
    )
