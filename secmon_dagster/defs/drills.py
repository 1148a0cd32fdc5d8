"""Fire drills: jobs that misbehave on purpose, to see that the platform stops them.

Launch them from the UI after a deployment, or whenever an auditor asks.
"""

from typing import Any

import dagster as dg

from secmon_dagster import audit, drift, gate, training
from secmon_dagster.limits import limits
from secmon_dagster.orchestration.actor import actor_of


class OfferedWindow(dg.Config):
    """Rows to check a model against."""

    model_id: str
    path: str


@dg.op(tags=limits(memory="1GiB", time="5m"))
def check_offered_window(context: dg.OpExecutionContext, config: OfferedWindow) -> None:
    """Compare the rows with the baseline of the version in use, and alert as a check does."""
    version = training.current_version(config.model_id)
    result = drift.run_check(
        config.model_id,
        version,
        lambda: training.load(training.DataSource(path=config.path)),
        run_id=context.run_id,
    )
    if result.error_message is not None:
        raise dg.Failure(result.error_message, allow_retries=False)
    context.add_output_metadata(
        {
            "check_id": result.check_id,
            "version": version,
            "level": str(result.alert_level),
            "max_psi": result.metrics.get("max_psi"),
        }
    )


@dg.job
def drift_drill() -> None:
    """Check rows of a file as if they were the model's next window; for a shifted one: CRITICAL."""
    check_offered_window()


@dg.op(tags=limits(memory="192MiB", time="1m"))
def allocate_without_end() -> None:
    """Takes memory, a mebibyte at a time, until something stops it."""
    taken = []
    while True:
        taken.append(bytearray(1 << 20))


@dg.job
def memory_limit_drill() -> None:
    """An op that allocates without end; expected: FAILURE, memory_limit_exceeded."""
    allocate_without_end()


class OfferedFile(dg.Config):
    """A file somebody offers as a model."""

    path: str
    name: str


@dg.op(tags=limits(memory="512MiB", time="2m"))
def register_offered_file(context: dg.OpExecutionContext, config: OfferedFile) -> dict[str, Any]:
    """Hash the file and enter it as a sensitive artifact; it isn't opened as a model."""
    artifact = gate.Gatekeeper(enqueue=audit.enqueue).register(
        config.path,
        name=config.name,
        type="model",
        uploaded_by=actor_of(context.run),
        is_sensitive=True,
    )
    context.add_output_metadata({"artifact": artifact.id, "sha256": artifact.sha256})
    return {"artifact_id": artifact.id}


@dg.op(tags=limits(memory="512MiB", time="2m"))
def check_offered_file(context: dg.OpExecutionContext, offered: dict[str, Any]) -> dict[str, Any]:
    """Ask the gate. Its verdict is recorded whatever it is; the release decides by it."""
    verdict = gate.Gatekeeper(enqueue=audit.enqueue).check(
        offered["artifact_id"], user_id=actor_of(context.run)
    )
    context.add_output_metadata(
        {
            "action": str(verdict.action),
            "findings": dg.MetadataValue.json([dict(f) for f in verdict.findings]),
        }
    )
    return offered


@dg.op(tags=limits(memory="512MiB", time="2m"))
def open_offered_file(context: dg.OpExecutionContext, offered: dict[str, Any]) -> None:
    """What a release does first: open the bytes through the gate."""
    with gate.Gatekeeper(enqueue=audit.enqueue).open_released(
        offered["artifact_id"], user_id=actor_of(context.run)
    ) as file:
        context.log.info(f"the gate released {len(file.read())} bytes")


@dg.job
def offered_file_drill() -> None:
    """Offer any file as a model; expected for a hostile one: FAILURE in open_offered_file."""
    open_offered_file(check_offered_file(register_offered_file()))
