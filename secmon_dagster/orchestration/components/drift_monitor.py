"""``type: secmon_dagster.DriftMonitor``: a model is watched, thirty lines of YAML away.

The component makes no schedule of its own: its declaration rides on the metadata of the asset
``drift/<model_id>``, the due-ness sensor brings it into the registry, and one check job runs them
all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from secmon_dagster.drift import CatchUp, ModelDriftConfig, ScheduleInterval
from secmon_dagster.drift.history import execution_history
from secmon_dagster.drift.outcomes import OutcomeColumns
from secmon_dagster.drift.vocabulary import ExecutionStatus
from secmon_dagster.drift.windows import WindowSource
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.orchestration.drift_runs import (
    CHECK_NAME,
    CRITICAL_CHECK,
    DECLARATION,
    WATCHED,
    asset_key,
    judged,
)
from secmon_dagster.training import Outcomes


class Source(BaseModel):
    """Where rows come from: one of asset, path, sql, sklearn and inference_log, and a cut."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: str | None = Field(default=None, description="An asset key, parts joined by slashes.")
    path: str | None = Field(default=None, description="A CSV or Parquet file or URL.")
    sql: str | None = Field(default=None, description="A query.")
    sklearn: str | None = Field(default=None, description="A bundled data set.")
    inference_log: bool | None = Field(default=None, description="What the model itself logged.")
    url: str | None = Field(default=None, description="SQLAlchemy URL that `sql` runs on.")
    time_column: str | None = None
    hours: float | None = Field(default=None, gt=0, description="Only rows of the last hours.")
    last: int | None = Field(default=None, ge=1, description="Only the last so many rows.")

    def checked(self) -> dict[str, Any]:
        """As the registry keeps it.

        Raises:
            InvalidInputError: unless there is exactly one origin.
        """
        return WindowSource.of(self.model_dump(exclude_none=True)).to_dict()


class Monitor(BaseModel):
    """The YAML's attributes."""

    # Template resolution reads "7" as a number, so a version comes back as one.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    model_id: str
    model_version: str = "1"
    reference: Source | None = Field(
        default=None, description="Profiled once a version; unset: the training job's baseline."
    )
    window: Source
    columns: Outcomes | None = Field(
        default=None, description="Score, label and strata: performance and fairness gaps."
    )
    safety: Source | None = Field(
        default=None, description="Rows of event_type, severity and count: what must not happen."
    )
    schedule: str = Field(
        default="daily", description="hourly, daily, weekly, or a cron expression of five fields."
    )
    timezone: str | None = Field(default=None, description="IANA name; unset: the settings'.")
    catch_up: CatchUp = CatchUp.LATEST
    enabled: bool = True
    features: list[str] | None = None
    thresholds: dict[str, float] = Field(default_factory=dict)
    description: str = ""
    owners: list[str] = Field(default_factory=list)


def configuration(monitor: Monitor) -> dict[str, Any]:
    """The arguments of :class:`ModelDriftConfig`, as JSON types, checked.

    Raises:
        InvalidInputError: naming the field that can't be.
    """
    named = {"hourly", "daily", "weekly"}
    custom = monitor.schedule not in named
    source = {"window": monitor.window.checked()}
    for name, rows in (("reference", monitor.reference), ("safety", monitor.safety)):
        if rows is None:
            continue
        source[name] = rows.checked()
        if rows.inference_log:
            raise InvalidInputError.of(name, "the inference log", "asset, path, sql")
    if monitor.columns is not None:
        source["columns"] = OutcomeColumns.of(monitor.columns.model_dump()).to_dict()
    arguments: dict[str, Any] = {
        "model_id": monitor.model_id,
        "model_version": monitor.model_version,
        "schedule_interval": str(ScheduleInterval.CUSTOM) if custom else monitor.schedule,
        "schedule_cron": monitor.schedule if custom else None,
        "catch_up": str(monitor.catch_up),
        "enabled": monitor.enabled,
        "features_to_monitor": monitor.features,
        "thresholds": monitor.thresholds or None,
        "source": source,
    }
    config = ModelDriftConfig(**arguments, timezone=monitor.timezone)
    return {**arguments, "timezone": config.zone_name}


class DriftMonitor(dg.Component):
    """A watched model: its asset, its check, and its place in the registry."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The YAML's attributes."""
        return Monitor

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> DriftMonitor:
        """Fill ``{{ env.NAME }}`` templates, then check again."""
        assert attributes is not None
        rendered = context.resolution_context.resolve_value(attributes.model_dump())
        return cls(Monitor.model_validate(rendered))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The asset that shows the model's drift, and its check."""
        key = asset_key(self.monitor.model_id)
        declared = json.dumps(configuration(self.monitor), sort_keys=True)
        upstream = [
            dg.AssetKey(source.asset.split("/"))
            for source in (self.monitor.reference, self.monitor.window, self.monitor.safety)
            if source is not None and source.asset and "{partition}" not in source.asset
        ]
        asset = dg.AssetSpec(
            key,
            deps=list(dict.fromkeys(upstream)),
            description=self.monitor.description or f"Drift of {self.monitor.model_id}.",
            group_name="drift",
            kinds={"drift"},
            owners=self.monitor.owners or None,
            metadata={DECLARATION: declared, WATCHED: self.monitor.model_id},
        )
        return dg.Definitions(assets=[asset], asset_checks=[latest_level(self.monitor.model_id)])


def latest_level(model_id: str) -> dg.AssetChecksDefinition:
    """The model's two asset checks: ``drift``, passed while NORMAL, and ``drift_critical``, failed
    while CRITICAL (which automation conditions look at: they don't see severities).

    They repeat what the model's last check found; the check job reports both as it runs, so running
    them by hand is never needed."""
    key = asset_key(model_id)

    @dg.multi_asset_check(
        name=f"drift_of_{model_id}",
        specs=[
            dg.AssetCheckSpec(CHECK_NAME, asset=key, description="Passed while NORMAL."),
            dg.AssetCheckSpec(CRITICAL_CHECK, asset=key, description="Failed while CRITICAL."),
        ],
    )
    def drift() -> Iterator[dg.AssetCheckResult]:
        ended = [
            check
            for check in execution_history(model_id, limit=50)
            if check.status in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
        ]
        for name in (CHECK_NAME, CRITICAL_CHECK):
            yield _not_checked_yet(name) if not ended else judged(ended[0], name)

    return drift


def _not_checked_yet(name: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description="the model was not checked yet",
    )
