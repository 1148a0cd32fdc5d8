"""``type: secmon_dagster.MonitoredModel``: a declared model becomes eight assets.

Dagster reads the annotations of ``context`` at run time, hence no postponed annotations here.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import BaseModel

from secmon_dagster import audit, drift, gate, training
from secmon_dagster.database import transaction
from secmon_dagster.drift.baselines import save_outcomes
from secmon_dagster.drift.outcomes import OutcomeColumns, profile_outcomes
from secmon_dagster.errors import GateError, ModelDefinitionError
from secmon_dagster.limits import limits
from secmon_dagster.orchestration.actor import actor_of
from secmon_dagster.orchestration.components.drift_monitor import (
    Monitor,
    Source,
    configuration,
    latest_level,
)
from secmon_dagster.orchestration.drift_runs import WATCHED, asset_key
from secmon_dagster.training import ModelSpec, StoredModel

# Every asset of the training pipeline carries it; the job selects by it.
PIPELINE_TAGS = {"secmon/pipeline": "training"}


class MonitoredModel(dg.Component):
    """A model that is trained, gated, released and watched.

    raw ▸ features ▸ train_test_split ▸ model ▸ evaluation ▸ gate ▸ release ▸ drift_baseline
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The YAML's attributes."""
        return ModelSpec

    @classmethod
    def load(
        cls, attributes: BaseModel | None, context: dg.ComponentLoadContext
    ) -> "MonitoredModel":
        """Fill ``{{ env.NAME }}`` templates, then check again."""
        assert attributes is not None
        rendered = context.resolution_context.resolve_value(attributes.model_dump())
        return cls(ModelSpec.model_validate(rendered))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, and the page that shows its drift."""
        watched = dg.AssetSpec(
            asset_key(self.spec.model_id),
            deps=[[self.spec.model_id, "drift_baseline"]],
            description=f"Drift of {self.spec.model_id}, check by check.",
            group_name=self.spec.model_id,
            kinds={"drift"},
            owners=self.spec.owners or None,
            metadata={WATCHED: self.spec.model_id},
        )
        return dg.Definitions(
            assets=[*model_assets(self.spec), watched],
            asset_checks=[latest_level(self.spec.model_id)],
        )


def model_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The eight assets of one model, each under the model's limits."""
    common: dict[str, Any] = {
        "key_prefix": spec.model_id,
        "group_name": spec.model_id,
        "owners": spec.owners or None,
        "io_manager_key": "tables",
        "code_version": hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12],
        "tags": PIPELINE_TAGS,
        "op_tags": limits(memory=spec.limits.memory, time=spec.limits.time, cpu=spec.limits.cpu),
    }

    @dg.asset(**common, kinds={"table"}, description=f"Rows as they come from {spec.data}.")
    def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
        frame = training.load(spec.data)
        context.add_output_metadata(
            {
                "dagster/row_count": len(frame),
                "columns": len(frame.columns),
                "preview": dg.MetadataValue.md(frame.head(5).to_markdown(index=False)),
            }
        )
        return frame

    @dg.asset(**common, kinds={"pandas"}, description="Declared features and target, checked.")
    def features(context: dg.AssetExecutionContext, raw: pd.DataFrame) -> pd.DataFrame:
        table = training.select(raw, spec)
        context.add_output_metadata(
            {
                "dagster/row_count": len(table),
                "features": len(training.feature_names(table, spec)),
                "dagster/column_schema": dg.TableSchema(
                    [dg.TableColumn(str(name), str(kind)) for name, kind in table.dtypes.items()]
                ),
            }
        )
        return table

    @dg.asset(**common, kinds={"pandas"}, description="Rows marked train or test, stratified.")
    def train_test_split(context: dg.AssetExecutionContext, features: pd.DataFrame) -> pd.DataFrame:
        table = training.split(features, spec)
        counts = table[training.SPLIT].value_counts()
        context.add_output_metadata({name: int(count) for name, count in counts.items()})
        return table

    @dg.asset(
        **common,
        kinds={"sklearn"},
        description=f"{spec.estimator.name}, cross-validated, stored with skops. "
        + spec.description,
    )
    def model(context: dg.AssetExecutionContext, train_test_split: pd.DataFrame) -> dict[str, Any]:
        trained = training.train(train_test_split, spec)
        version = _version(context)
        path = training.write_model(trained.pipeline, spec.model_id, version)
        actor = actor_of(context.run)
        artifact = gate.Gatekeeper(enqueue=audit.enqueue).register(
            path,
            artifact_id=f"{spec.model_id}-{version}",
            name=f"{spec.model_id} {version}",
            type="model",
            uploaded_by=actor,
            is_sensitive=True,
            require_approval=spec.require_approval,
        )
        stored = StoredModel(
            model_id=spec.model_id,
            version=version,
            artifact_id=artifact.id,
            estimator=spec.estimator.name,
            schema={
                name: str(train_test_split[name].dtype)
                for name in training.feature_names(train_test_split, spec)
            },
            metrics={"cross_validated_accuracy": trained.cross_validated_accuracy},
            run_id=context.run_id,
        )
        with transaction() as connection:
            training.record_model(connection, stored)
            audit.enqueue(
                connection,
                action="MODEL_TRAINED",
                actor=actor,
                resource_type="model",
                resource_id=f"{spec.model_id}@{version}",
                data={
                    "artifact_id": artifact.id,
                    "sha256": artifact.sha256,
                    "estimator": spec.estimator.name,
                    "metrics": stored.metrics,
                    "library_versions": training.library_versions(),
                },
                execution_id=context.run_id,
                job_id=context.asset_key.to_python_identifier(),
            )
        context.add_output_metadata(
            {
                "cross_validated_accuracy": trained.cross_validated_accuracy,
                "folds": dg.MetadataValue.json(list(trained.folds)),
                "version": version,
                "sha256": artifact.sha256,
                "size_bytes": artifact.size_bytes,
                "file": dg.MetadataValue.path(str(path)),
                "libraries": dg.MetadataValue.json(training.library_versions()),
            }
        )
        return {"stored": vars(stored), "file": str(path)}

    @dg.asset(**common, kinds={"sklearn"}, description="Held-out metrics and pictures.")
    def evaluation(
        context: dg.AssetExecutionContext,
        model: dict[str, Any],
        train_test_split: pd.DataFrame,
    ) -> pd.DataFrame:
        # Our own file of a moment ago, before the gate has seen it: load_model admits no type but
        # scikit-learn's and numpy's, whatever the file holds.
        with open(model["file"], "rb") as file:  # noqa: PTH123 - the file's name is kept
            pipeline = training.load_model(file)
        found = training.evaluate(pipeline, train_test_split, spec)
        stored = StoredModel(**model["stored"])
        with transaction() as connection:
            training.record_metrics(connection, stored.model_id, stored.version, found.metrics)
        context.add_output_metadata(
            {
                **found.metrics,
                "dagster/row_count": found.rows,
                "metrics": dg.MetadataValue.md(training.metric_table(found.metrics)),
                "confusion_matrix": dg.MetadataValue.md(training.confusion_picture(found)),
                "roc": dg.MetadataValue.md(training.roc_picture(found)),
            }
        )
        return found.scores

    check = dg.AssetCheckSpec(
        "security_verdict",
        asset=[spec.model_id, "gate"],
        description="The gate's verdict on exactly these bytes. It is shown here and decided in "
        "the gate: forging this check releases nothing.",
    )

    @dg.asset(
        **common,
        kinds={"security"},
        name="gate",
        deps=[[spec.model_id, "evaluation"]],
        check_specs=[check],
        description="Security scripts read the model's file in a sandbox; blocked ones stop here.",
    )
    def gate_asset(
        context: dg.AssetExecutionContext, model: dict[str, Any]
    ) -> Iterator[dg.AssetCheckResult | dg.Output[dict[str, Any]]]:
        stored = StoredModel(**model["stored"])
        verdict = gate.Gatekeeper(enqueue=audit.enqueue).check(
            stored.artifact_id, user_id=actor_of(context.run), run_id=context.run_id
        )
        metadata = {
            "action": str(verdict.action),
            "sha256": verdict.sha256,
            "findings": dg.MetadataValue.json([dict(finding) for finding in verdict.findings]),
            "isolation": str(verdict.result.isolation),
            "duration_ms": verdict.result.execution_duration_ms,
        }
        yield dg.AssetCheckResult(passed=verdict.allowed, metadata=metadata)
        if not verdict.allowed:
            raise dg.Failure(
                f"{stored.artifact_id} is {verdict.action} by the gate",
                metadata=metadata,
                allow_retries=False,
            )
        yield dg.Output(model, metadata=metadata)

    @dg.asset(
        **common,
        kinds={"security"},
        name="release",
        description="Re-hashes the file, looks its verdict up in the chain, and only then puts it "
        "where production reads models.",
    )
    def release(context: dg.AssetExecutionContext, gate: dict[str, Any]) -> dict[str, Any]:
        path = release_model(StoredModel(**gate["stored"]), actor_of(context.run), context.run_id)
        context.add_output_metadata(
            {"file": dg.MetadataValue.path(path), "version": gate["stored"]["version"]}
        )
        return {**gate, "released": path}

    @dg.asset(
        **common,
        kinds={"drift"},
        name="drift_baseline",
        description="Profile of the training features, against which windows are compared.",
    )
    def drift_baseline(
        context: dg.AssetExecutionContext,
        release: dict[str, Any],
        evaluation: pd.DataFrame,
        train_test_split: pd.DataFrame,
    ) -> dict[str, Any]:
        stored = StoredModel(**release["stored"])
        rows = train_test_split[train_test_split[training.SPLIT] == "train"]
        outcomes = held_out_outcomes(spec, evaluation, train_test_split)
        profile = drift.profile(
            rows[training.feature_names(train_test_split, spec)],
            outputs=None if outcomes is None else outcomes[1].answers_of(outcomes[0]),
        )
        drift.save_baseline(stored.model_id, stored.version, profile)
        if outcomes is not None:
            save_outcomes(stored.model_id, stored.version, profile_outcomes(*outcomes))
        watch(spec, stored.version)
        context.add_output_metadata(
            {
                "features": len(stored.schema),
                "rows": len(rows),
                "content_hash": profile.content_hash,
            }
        )
        return {"model_id": stored.model_id, "version": stored.version}

    return [
        raw,
        features,
        train_test_split,
        model,
        evaluation,
        gate_asset,
        release,
        drift_baseline,
    ]


def release_model(stored: StoredModel, actor: str, run_id: str) -> str:
    """Put a gated model where production reads it.

    Returns:
        The released file.

    Raises:
        dagster.Failure: no verdict on these bytes allows it; not retried.
    """
    try:
        with gate.Gatekeeper(enqueue=audit.enqueue).open_released(
            stored.artifact_id, user_id=actor
        ) as file:
            with transaction() as connection:
                target = training.publish(connection, file, stored)
                audit.enqueue(
                    connection,
                    action="MODEL_RELEASED",
                    actor=actor,
                    resource_type="model",
                    resource_id=f"{stored.model_id}@{stored.version}",
                    data={"artifact_id": stored.artifact_id, "file": target.name},
                    execution_id=run_id,
                )
            training.mark_current(stored, target)
    except GateError as refused:
        raise dg.Failure(refused.diagnostics(), allow_retries=False) from refused
    return str(target)


def held_out_outcomes(
    spec: ModelSpec, evaluation: pd.DataFrame, table: pd.DataFrame
) -> tuple[pd.DataFrame, OutcomeColumns] | None:
    """The held-out rows with the model's score and answer under the declared names.

    Raises:
        ModelDefinitionError: if the class that is declared positive is none of the model's.
    """
    if spec.drift.columns is None:
        return None
    columns = OutcomeColumns.of(spec.drift.columns.model_dump())
    rows = table[table[training.SPLIT] == "test"].reset_index(drop=True)
    probability = f"probability_{columns.positive}"
    if probability not in evaluation.columns:
        classes = [name for name in evaluation.columns if name.startswith("probability_")]
        raise ModelDefinitionError.of(
            "drift.columns.positive",
            columns.positive,
            ", ".join(name.removeprefix("probability_") for name in classes),
        )
    if columns.score is not None:
        rows[columns.score] = evaluation[probability]
    if columns.prediction is not None:
        # The evaluation keeps classes as text; the declared one gets its own type back.
        rows[columns.prediction] = evaluation["prediction"].where(
            evaluation["prediction"] != str(columns.positive), columns.positive
        )
    if columns.label is not None:
        rows[columns.label] = rows[spec.target]
    return rows, columns


def watch(spec: ModelSpec, version: str) -> None:
    """Have the released version checked on its schedule, if the YAML names a window."""
    if spec.drift.window is None:
        return
    monitor = Monitor(
        model_id=spec.model_id,
        model_version=version,
        window=Source(**spec.drift.window.model_dump(exclude_none=True)),
        columns=spec.drift.columns,
        schedule=spec.drift.schedule,
        enabled=spec.drift.enabled,
        thresholds={
            "psi_warning": spec.drift.psi_warning,
            "psi_critical": spec.drift.psi_critical,
        },
    )
    drift.registry.register(drift.ModelDriftConfig(**configuration(monitor)), datetime.now(UTC))


def _version(context: dg.AssetExecutionContext) -> str:
    """Sortable, the same for every attempt of one run."""
    record = context.instance.get_run_record_by_id(context.run_id)
    assert record is not None
    return f"{record.create_timestamp:%Y%m%d-%H%M%S}-{context.run_id[:8]}"
