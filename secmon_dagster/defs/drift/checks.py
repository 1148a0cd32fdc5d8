"""The check job, one run a model, and the sensor that starts what is due.

Dagster reads the annotation of ``context`` at run time, hence no postponed annotations here.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from secmon_dagster.audit import enqueue
from secmon_dagster.database import transaction
from secmon_dagster.drift import ExecutionStatus
from secmon_dagster.drift.fast_sort import remember_fastest_sort
from secmon_dagster.drift.registry import (
    ModelDriftConfig,
    claim_due,
    list_models,
    open_checks,
    register,
    registered,
    retire_undeclared,
)
from secmon_dagster.drift.store import abandon_check
from secmon_dagster.errors import NotFoundError
from secmon_dagster.limits import limits
from secmon_dagster.orchestration.drift_runs import DECLARATION, WATCHED, check_model, events_of
from secmon_dagster.orchestration.executor import resource_limit_executor
from secmon_dagster.settings import get_settings

# A model is a partition, so its history has a page of its own.
drift_models = dg.DynamicPartitionsDefinition(name="drift_models")

CHECK_TAG = "secmon/drift_check"
DUE_TAG = "secmon/drift_due"
_ORPHANED = timedelta(minutes=2)


@dg.op(out=dg.Out(dg.Nothing), tags=limits(memory="2GiB", time="10m", cpu=100))
def check_drift(
    context: dg.OpExecutionContext,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Check the model that the run's partition names."""
    config = registered(context.partition_key).config
    due = context.run.tags.get(DUE_TAG)
    result = check_model(
        config,
        lambda key: context.repository_def.load_asset_value(key, instance=context.instance),
        check_id=context.run.tags.get(CHECK_TAG),
        due_at=None if due is None else datetime.fromisoformat(due),
        run_id=context.run_id,
    )
    yield from events_of(result)
    remember_fastest_sort(get_settings().home / "cache")  # for the zygotes of later runs
    if result.status is ExecutionStatus.FAILED:
        raise dg.Failure(result.error_message, allow_retries=False)


# Imported once before the step forks, while the run is still getting ready.
BOXED = resource_limit_executor.configured({"preload_modules": ["scipy.stats"]})


@dg.job(partitions_def=drift_models, executor_def=BOXED, tags={"secmon/area": "drift"})
def drift_check_job() -> None:
    """Compares a model's current window with its baseline and records, shows and tells the result.

    Launched by hand for a model, it checks now; the schedule goes on as it was."""
    check_drift()


@dg.sensor(
    job=drift_check_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts one run for every drift check that is due.",
)
def drift_due_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Registers what YAML declares, ends checks whose runs are gone, requests what is due."""
    now = datetime.now(UTC)
    _register_declared(context, now)
    _end_orphans(context.instance, now)
    due = claim_due(now)
    known = set(context.instance.get_dynamic_partitions("drift_models"))
    names = {model.config.model_id for model in list_models()}
    wanted = sorted((names | {check.model_id for check in due}) - known)
    requests = [drift_models.build_add_request(wanted)] if wanted else []
    if not due:
        reason = dg.SkipReason("no drift check is due")
        return dg.SensorResult(skip_reason=reason, dynamic_partitions_requests=requests)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=check.run_key,
                partition_key=check.model_id,
                tags={CHECK_TAG: check.check_id, DUE_TAG: check.due_at.isoformat()},
            )
            for check in due
        ],
        dynamic_partitions_requests=requests,
    )


def _register_declared(context: dg.SensorEvaluationContext, now: datetime) -> None:
    """Bring the registry up to what the code location's monitors declare.

    The declaration rides on the metadata of the monitor's asset: loading definitions must not
    write to a database, so this is done here."""
    if context.repository_def is None:
        return
    graph = context.repository_def.asset_graph
    watched: set[str] = set()
    for key in graph.get_all_asset_keys():
        metadata = graph.get(key).metadata
        if WATCHED in metadata:
            watched.add(str(metadata[WATCHED]))
        if DECLARATION not in metadata:
            continue
        config = ModelDriftConfig(**json.loads(str(metadata[DECLARATION])))
        if _registered(config.model_id) != config:
            register(config, now)
    origin = context.code_location_origin
    location = "code" if origin is None else str(origin.location_name)
    for model_id in retire_undeclared(location, watched, now, audit=enqueue):
        context.log.warning("%s is not declared any more, so it is not watched any more", model_id)


def _registered(model_id: str) -> ModelDriftConfig | None:
    try:
        return registered(model_id).config
    except NotFoundError:
        return None


def _end_orphans(instance: dg.DagsterInstance, now: datetime) -> None:
    """A check whose runs have all ended without ending it (killed, failed to load) is FAILED."""
    for check_id, _ in open_checks(now - _ORPHANED):
        runs = instance.get_runs(dg.RunsFilter(tags={CHECK_TAG: check_id}), limit=10)
        if runs and all(run.is_finished for run in runs):
            with transaction() as connection:
                abandon_check(
                    connection, check_id, "its run ended without a result", now=now, audit=enqueue
                )
