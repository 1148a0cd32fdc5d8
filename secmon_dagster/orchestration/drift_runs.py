"""A drift check as a Dagster run: fetch the window, check it, show the result on the model's asset.

Every model has an asset ``drift/<model_id>`` whose materialisations carry the PSI of each feature
as a number, so that the asset page plots them, and a check ``drift`` that is red while the level is
CRITICAL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pandas as pd

from secmon_dagster import training
from secmon_dagster.drift import (
    DriftCheckResult,
    ExecutionStatus,
    ModelDriftConfig,
    Window,
    profile,
    run_check,
    save_baseline,
)
from secmon_dagster.drift.baselines import has_baseline, load_outcomes, save_outcomes
from secmon_dagster.drift.inference_log import PREDICTION, read_inferences
from secmon_dagster.drift.outcomes import OutcomeColumns, judge_outcomes, profile_outcomes
from secmon_dagster.drift.windows import WindowSource, cut, safety_events
from secmon_dagster.errors import DriftError, NotFoundError
from secmon_dagster.settings import get_settings

CHECK_NAME = "drift"
CRITICAL_CHECK = "drift_critical"
# Metadata key under which a monitor's asset carries its configuration, as JSON text.
DECLARATION = "secmon/drift_monitor"
# And the one that names the model, which a trained model's asset has too (it is registered by its
# release): a model of the registry that no asset names any more is not declared any more.
WATCHED = "secmon/drift_model"

LoadAsset = Callable[[dg.AssetKey], Any]


def asset_key(model_id: str) -> dg.AssetKey:
    """The asset that shows a model's drift."""
    return dg.AssetKey(["drift", model_id])


def retrain_on_critical_drift(model_id: str) -> dg.AutomationCondition[Any]:
    """For a model's first asset: request it when the model's drift check turns red."""
    red = dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed())
    only = dg.AssetSelection.checks(dg.AssetCheckKey(asset_key(model_id), CRITICAL_CHECK))
    return (
        dg.AutomationCondition.asset_matches(asset_key(model_id), red.allow(only)).newly_true()
        & ~dg.AutomationCondition.in_progress()
    )


def rows_of(
    source: WindowSource, load_asset: LoadAsset, *, may_be_empty: bool = False
) -> pd.DataFrame:
    """All rows of a source that is not the inference log.

    Args:
        may_be_empty: Whether no rows are an answer too; otherwise they are an error.

    Raises:
        DriftError: if the asset is no table, or was never materialised.
        ModelDefinitionError: if a file or query fails.
    """
    if source.asset is not None:
        key = dg.AssetKey(source.asset.split("/"))
        try:
            rows = load_asset(key)
        except FileNotFoundError:
            raise DriftError(f"the asset {source.asset} was not materialised yet") from None
        if not isinstance(rows, pd.DataFrame):
            raise DriftError(f"the asset {source.asset} is no table")
        return rows
    given = {
        name: value
        for name in ("path", "sql", "sklearn", "url")
        if (value := getattr(source, name)) is not None
    }
    return training.load(training.DataSource(**given), may_be_empty=may_be_empty)


def window_of(config: ModelDriftConfig, due_at: datetime, load_asset: LoadAsset) -> Window:
    """The window of a model's check, as its configuration says.

    Raises:
        DriftError: if none is configured, or its source gives no rows.
    """
    given = config.source or {}
    if not given.get("window"):
        raise DriftError(
            f"model {config.model_id} has no window source",
            hint="name one: an asset, path, sql query or the inference log",
        )
    source = WindowSource.of(given["window"]).located(due_at)
    if source.inference_log:
        rows = read_inferences(config.model_id, config.model_version, source, due_at)
    else:
        rows = cut(rows_of(source, load_asset), source, due_at)
    found = Window(rows)
    if columns := columns_of(config):
        found = _with_outcomes(config, columns, rows)
    elif source.inference_log and PREDICTION in rows:
        answers = rows[PREDICTION]
        found = Window(rows.drop(columns=PREDICTION), answers if answers.notna().all() else None)
    if given.get("safety"):
        events = WindowSource.of(given["safety"]).located(due_at)
        happened = cut(rows_of(events, load_asset, may_be_empty=True), events, due_at)
        found = replace(found, safety_events=safety_events(happened))
    return found


def columns_of(config: ModelDriftConfig) -> OutcomeColumns | None:
    """The outcome columns a model's configuration declares."""
    given = (config.source or {}).get("columns")
    return OutcomeColumns.of(given) if given else None


def _with_outcomes(config: ModelDriftConfig, columns: OutcomeColumns, rows: pd.DataFrame) -> Window:
    baseline = load_outcomes(config.model_id, config.model_version)
    if baseline is None:
        raise NotFoundError(
            f"model {config.model_id} has no baseline of outcomes for version "
            f"{config.model_version}",
            hint="declare a reference that holds the columns named under columns",
        )
    performance, bias = judge_outcomes(baseline, rows, config.thresholds)
    return Window(
        columns.features_of(rows),
        columns.answers_of(rows),
        performance=performance,
        bias_data=bias,
    )


def ensure_baseline(config: ModelDriftConfig, load_asset: LoadAsset) -> None:
    """Profile the declared reference of a version that has no baseline yet, and its outcomes.

    Without a declared reference there is nothing to do here: the check itself says what is absent.
    """
    reference, columns = (config.source or {}).get("reference"), columns_of(config)
    if not reference:
        return
    model = (config.model_id, config.model_version)
    profiled = has_baseline(*model)
    stored = load_outcomes(*model) if columns else None
    summed_up = columns is None or (stored is not None and stored.columns == columns)
    if profiled and summed_up:
        return
    rows = rows_of(WindowSource.of(reference), load_asset)
    if columns is not None and not summed_up:
        save_outcomes(*model, profile_outcomes(rows, columns))
    if profiled:
        return
    if columns is None:
        save_baseline(*model, profile(rows))
    else:
        answers = columns.answers_of(rows)
        save_baseline(*model, profile(columns.features_of(rows), outputs=answers))


def check_model(
    config: ModelDriftConfig,
    load_asset: LoadAsset,
    *,
    check_id: str | None,
    due_at: datetime | None,
    run_id: str,
) -> DriftCheckResult:
    """One check of a registered model; whatever fails in it ends as a FAILED result."""

    def window() -> Window:
        ensure_baseline(config, load_asset)
        return window_of(config, due_at or datetime.now(UTC), load_asset)

    return run_check(
        config.model_id,
        config.model_version,
        window,
        thresholds=config.thresholds,
        features=config.features_to_monitor,
        check_id=check_id,
        due_at=due_at,
        run_id=run_id,
    )


def metadata_of(result: DriftCheckResult) -> dict[str, Any]:
    """What the asset page shows: one number per feature (plotted), the summary, the report."""
    shown: dict[str, Any] = {
        "level": result.alert_level or "INSUFFICIENT_DATA",
        "check_id": result.check_id,
        "model_version": result.model_version,
        "duration_ms": result.duration_ms,
    }
    if result.report is None:
        return {**shown, "error": result.error_message or ""}
    for feature in (*result.report.features, *result.report.outputs):
        if feature.psi is not None:
            shown[f"psi/{feature.feature}"] = feature.psi
    for metric in result.report.performance:
        if (now := metric.details.get("current")) is not None:
            shown[f"performance/{metric.name}"] = now
    for gap in result.report.bias:
        if gap.current_value is not None:
            shown[f"bias/{gap.metric_name}/{gap.stratum_type}/{gap.stratum_value}"] = (
                gap.current_value
            )
    if result.pages is not None:
        folder = get_settings().home / "reports" / "drift"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{result.check_id}.html"
        path.write_text(result.pages[0], encoding="utf-8")
        shown["report"] = dg.MetadataValue.path(str(path.resolve()))
        shown["summary"] = dg.MetadataValue.md(result.pages[1])
    return shown


def judged(result: DriftCheckResult, name: str) -> dg.AssetCheckResult:
    """What a check says of the model's asset: ``drift`` or ``drift_critical``."""
    critical = result.alert_level == "CRITICAL"
    failed = result.status is ExecutionStatus.FAILED
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset_key(result.model_id),
        # What could not be checked is not called CRITICAL: that would retrain on a missing file.
        passed=not critical if name == CRITICAL_CHECK else result.alert_level == "NORMAL",
        severity=dg.AssetCheckSeverity.ERROR if critical or failed else dg.AssetCheckSeverity.WARN,
        description=result.error_message or result.reason or f"level {result.alert_level}",
        metadata={"level": result.alert_level or "INSUFFICIENT_DATA", "check_id": result.check_id},
    )


def events_of(
    result: DriftCheckResult,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """The materialisation and the check evaluations that show a check on the model's asset."""
    key = asset_key(result.model_id)
    metadata = metadata_of(result)
    shown = judged(result, CHECK_NAME)
    yield dg.AssetMaterialization(key, description=shown.description, metadata=metadata)
    pages: dict[str, Any] = {
        name: metadata[name] for name in ("report", "summary") if name in metadata
    }
    for each in (shown, judged(result, CRITICAL_CHECK)):
        yield dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=str(each.check_name),
            passed=each.passed,
            severity=each.severity,
            description=each.description,
            metadata={**each.metadata, **pages},
        )
