"""The registry: which models are watched, and what is due of them.

A due time becomes a PENDING row first and a run afterwards: the row is unique per model and due
time, so it doesn't matter how many daemons look, and a daemon that dies in between loses nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.drift.due import cron_of, due_times, next_due, plan, zone_of
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.store import ACTOR, AuditOutbox, count_outcome
from secmon_dagster.drift.vocabulary import CatchUp, ExecutionStatus, ScheduleInterval
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.settings import get_settings

LEASE = timedelta(minutes=2)
_CHECKS = uuid.UUID("8f6a8f2c-5b1e-5d0a-9a56-0f3a5d6f4c11")

AlertCallback = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class ModelDriftConfig:
    """How one model is watched.

    ``source`` says where its windows come from (see :mod:`secmon_dagster.drift.windows`);
    ``baseline_data`` and ``alert_callback`` live in this process only.
    """

    model_id: str
    model_version: str
    schedule_interval: ScheduleInterval = ScheduleInterval.DAILY
    baseline_data: Any = None
    thresholds: Mapping[str, float] | None = None
    features_to_monitor: list[str] | None = None
    alert_callback: AlertCallback | None = None
    enabled: bool = True
    schedule_cron: str | None = None
    timezone: str | None = None
    catch_up: CatchUp = CatchUp.LATEST
    source: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("model_id", "model_version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidInputError.of(name, value, "text that is not empty")
        for name, choices in (("schedule_interval", ScheduleInterval), ("catch_up", CatchUp)):
            try:
                object.__setattr__(self, name, choices(getattr(self, name)))
            except ValueError:
                raise InvalidInputError.of(name, getattr(self, name), ", ".join(choices)) from None
        if self.alert_callback is not None and not callable(self.alert_callback):
            raise InvalidInputError.of("alert_callback", self.alert_callback, "a function")
        cron_of(self.schedule_interval, self.schedule_cron)
        zone_of(self.zone_name)
        Thresholds.of(self.thresholds)

    @property
    def zone_name(self) -> str:
        """The model's time zone, or that of the settings."""
        return self.timezone or get_settings().drift_scheduler_timezone

    @property
    def cron(self) -> str:
        """The schedule as five cron fields."""
        return cron_of(self.schedule_interval, self.schedule_cron)


@dataclass(frozen=True)
class RegisteredModel:
    """A row of the registry: the configuration and when the next check is due."""

    config: ModelDriftConfig
    next_due: datetime

    @property
    def next_due_local(self) -> datetime:
        """The next due time on the clock of the model's time zone."""
        return self.next_due.astimezone(zone_of(self.config.zone_name))


@dataclass(frozen=True)
class DueCheck:
    """A check to start a run for."""

    check_id: str
    model_id: str
    model_version: str
    due_at: datetime

    @property
    def run_key(self) -> str:
        """What Dagster must not start twice."""
        return f"{self.model_id}:{self.due_at.isoformat()}"


def check_id_of(model_id: str, due_at: datetime) -> str:
    """The id of the one check of a model that is due at that time."""
    return uuid.uuid5(_CHECKS, f"{model_id}\x00{due_at.isoformat()}").hex


def register(config: ModelDriftConfig, now: datetime) -> RegisteredModel:
    """Add or change a watched model. A changed schedule starts anew from ``now``; an unchanged one
    keeps its next due time, so that deploying often does not push checks away."""
    due = next_due(config.cron, zone_of(config.zone_name), now)
    with transaction() as connection:
        row = connection.execute(
            """INSERT INTO drift_models AS m
                 (model_id, model_version, schedule_interval, schedule_cron, timezone, catch_up,
                  enabled, thresholds, features, source, next_due, configured_at)
               VALUES (%(id)s, %(version)s, %(interval)s, %(cron)s, %(zone)s, %(catch_up)s,
                       %(enabled)s, %(thresholds)s, %(features)s, %(source)s, %(due)s, %(now)s)
               ON CONFLICT (model_id) DO UPDATE
                 SET model_version = excluded.model_version,
                     thresholds = excluded.thresholds, features = excluded.features,
                     source = excluded.source, enabled = excluded.enabled,
                     catch_up = excluded.catch_up, configured_at = excluded.configured_at,
                     next_due = CASE
                       WHEN (m.schedule_interval, m.schedule_cron, m.timezone) IS NOT DISTINCT FROM
                            (excluded.schedule_interval, excluded.schedule_cron, excluded.timezone)
                       THEN m.next_due ELSE excluded.next_due END,
                     schedule_interval = excluded.schedule_interval,
                     schedule_cron = excluded.schedule_cron, timezone = excluded.timezone
               RETURNING next_due""",
            {
                "id": config.model_id,
                "version": config.model_version,
                "interval": str(config.schedule_interval),
                "cron": config.schedule_cron,
                "zone": config.zone_name,
                "catch_up": str(config.catch_up),
                "enabled": config.enabled,
                "thresholds": Jsonb(dict(config.thresholds or {})),
                "features": config.features_to_monitor,
                "source": None if config.source is None else Jsonb(dict(config.source)),
                "due": due,
                "now": now,
            },
        ).fetchone()
    return RegisteredModel(config, row[0] if row else due)


def registered(model_id: str) -> RegisteredModel:
    """One watched model.

    Raises:
        NotFoundError: if it is not configured.
    """
    with transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT * FROM drift_models WHERE model_id = %s", (model_id,)
        ).fetchone()
    if row is None:
        raise NotFoundError(
            f"no model {model_id} is configured for drift detection",
            hint="configure it: secmon drift configure",
        )
    return _model(row)


def list_models(*, limit: int = 1000, after: str = "") -> list[RegisteredModel]:
    """Watched models by id, a page after the id ``after``."""
    with transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM drift_models WHERE model_id > %s ORDER BY model_id LIMIT %s",
            (after, limit),
        ).fetchall()
    return [_model(row) for row in rows]


def _model(row: Mapping[str, Any]) -> RegisteredModel:
    config = ModelDriftConfig(
        model_id=row["model_id"],
        model_version=row["model_version"],
        schedule_interval=ScheduleInterval(row["schedule_interval"]),
        schedule_cron=row["schedule_cron"],
        timezone=row["timezone"],
        catch_up=CatchUp(row["catch_up"]),
        enabled=row["enabled"],
        thresholds=row["thresholds"] or None,
        features_to_monitor=row["features"],
        source=row["source"],
    )
    return RegisteredModel(config, row["next_due"])


def unregister(model_id: str) -> None:
    """Stop watching a model; its history stays.

    Raises:
        NotFoundError: if it is not configured.
    """
    with transaction() as connection:
        gone = connection.execute("DELETE FROM drift_models WHERE model_id = %s", (model_id,))
        if gone.rowcount == 0:
            raise NotFoundError(f"no model {model_id} is configured for drift detection")


def retire_undeclared(
    location: str, declared: Collection[str], now: datetime, *, audit: AuditOutbox
) -> list[str]:
    """Stop watching what a code location declared once and declares no more.

    A removed model leaves an audit entry and its history; its checks that have not begun are
    recorded as SKIPPED. Models of other locations and those configured by hand stay.

    Returns:
        The ids of the models that are gone.
    """
    with transaction() as connection:
        connection.execute(
            """UPDATE drift_models SET declared_by = %(location)s
                WHERE model_id = ANY(%(declared)s) AND declared_by IS DISTINCT FROM %(location)s""",
            {"location": location, "declared": list(declared)},
        )
        gone = connection.execute(
            """DELETE FROM drift_models
                WHERE declared_by = %(location)s AND model_id <> ALL(%(declared)s)
            RETURNING model_id, model_version""",
            {"location": location, "declared": list(declared)},
        ).fetchall()
        for model_id, version in gone:
            reason = "its monitor is not declared any more"
            skipped = connection.execute(
                """UPDATE drift_checks SET status = 'skipped', finished_at = %s, reason = %s
                    WHERE model_id = %s AND status = 'pending'""",
                (now, reason, model_id),
            ).rowcount
            count_outcome(connection, model_id, ExecutionStatus.SKIPPED, times=skipped)
            # Were it declared again, its level would have to be told again.
            connection.execute(
                "UPDATE drift_model_state SET level = 'NORMAL', since = %s WHERE model_id = %s",
                (now, model_id),
            )
            audit(
                connection,
                action="DRIFT_MONITOR_REMOVED",
                actor=ACTOR,
                resource_type="model",
                resource_id=model_id,
                data={"model_version": version, "location": location, "checks_skipped": skipped},
                details={"reason": reason},
            )
    return sorted(model_id for model_id, _ in gone)


def claim_due(now: datetime, *, limit: int = 1000) -> list[DueCheck]:
    """Checks to start runs for now; no other caller gets them until the lease ends.

    First what is due becomes rows (PENDING, or SKIPPED with a reason) and the models' next due
    times move on, in one transaction; then PENDING rows without a lease are leased.
    """
    with transaction() as connection:
        _materialise(connection, now, limit)
    with transaction() as connection:
        rows = connection.execute(
            """UPDATE drift_checks c SET leased_until = %(until)s
                 FROM (SELECT check_id FROM drift_checks
                        WHERE status = 'pending'
                          AND (leased_until IS NULL OR leased_until <= %(now)s)
                        ORDER BY requested_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) mine
                WHERE c.check_id = mine.check_id
            RETURNING c.check_id, c.model_id, c.model_version, c.due_at""",
            {"until": now + LEASE, "now": now, "limit": limit},
        ).fetchall()
    rows.sort(key=lambda row: (row[3], row[1]))
    return [DueCheck(*row) for row in rows]


def _materialise(connection: psycopg.Connection[Any], now: datetime, limit: int) -> None:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """SELECT * FROM drift_models WHERE next_due <= %s
                ORDER BY next_due LIMIT %s FOR UPDATE SKIP LOCKED""",
            (now, limit),
        ).fetchall()
    checks: list[tuple[Any, ...]] = []
    moved: list[tuple[Any, ...]] = []
    for model in (_model(row) for row in rows):
        config, zone = model.config, zone_of(model.config.zone_name)
        times = due_times(config.cron, zone, model.next_due, now)
        following, skipped = next_due(config.cron, zone, times[-1]), 0
        more = following <= now
        for due_at, status, reason in plan(
            times, config.catch_up, now, enabled=config.enabled, more=more
        ):
            checks.append(
                (check_id_of(config.model_id, due_at), config.model_id, config.model_version,
                 due_at, str(status), reason, now,
                 now if status is ExecutionStatus.SKIPPED else None)
            )  # fmt: skip
            skipped += status is ExecutionStatus.SKIPPED
        if skipped:
            count_outcome(connection, config.model_id, ExecutionStatus.SKIPPED, times=skipped)
        moved.append((following, config.model_id))
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO drift_checks (check_id, model_id, model_version, due_at, status, reason,
                                         requested_at, finished_at)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            checks,
        )
        cursor.executemany("UPDATE drift_models SET next_due = %s WHERE model_id = %s", moved)


def open_checks(requested_before: datetime, *, limit: int = 200) -> list[tuple[str, str | None]]:
    """Checks that were asked for before then and have not ended: id and the run that took it."""
    with transaction() as connection:
        rows = connection.execute(
            """SELECT check_id, run_id FROM drift_checks
                WHERE status IN ('pending', 'running') AND due_at IS NOT NULL
                  AND requested_at < %s ORDER BY requested_at LIMIT %s""",
            (requested_before, limit),
        ).fetchall()
    return [(row[0], row[1]) for row in rows]
