"""Telling people: a sensor that sees new CRITICAL checks, and one that empties the outbox.

Dagster reads the annotation of ``context`` at run time, hence no postponed annotations here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from secmon_dagster.database import transaction
from secmon_dagster.orchestration.alerts import deliver_waiting, targets
from secmon_dagster.settings import get_settings

_PAGE = 100
# A check may be committed a little after one that finished later.
_OVERLAP = timedelta(minutes=10)
_BEGINNING = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class _Cursor:
    """How far the alert sensor has read, and which checks it has seen in the overlap before."""

    since: datetime
    seen: Mapping[str, str]

    @classmethod
    def read(cls, text: str | None) -> "_Cursor":
        if not text:
            return cls(_BEGINNING, {})
        body = json.loads(text)
        return cls(datetime.fromisoformat(body["since"]), body["seen"])

    def advance(self, found: Mapping[str, datetime]) -> "_Cursor":
        since = max([self.since, *found.values()])
        seen = {**self.seen, **{key: moment.isoformat() for key, moment in found.items()}}
        kept = {
            key: moment
            for key, moment in seen.items()
            if datetime.fromisoformat(moment) > since - _OVERLAP
        }
        return _Cursor(since, kept)

    def write(self) -> str:
        return json.dumps({"since": self.since.isoformat(), "seen": dict(self.seen)})


@dg.op(
    config_schema={
        "check_id": str,
        "model_id": str,
        "model_version": str,
        "max_psi": dg.Noneable(float),
    }
)
def tell_critical_drift(context: dg.OpExecutionContext) -> None:
    """Log the CRITICAL check where the run's readers see it, and deliver what waits."""
    found = context.op_config
    context.log.critical(
        "CRITICAL drift of %s %s, check %s, largest PSI %s",
        found["model_id"],
        found["model_version"],
        found["check_id"],
        found["max_psi"],
    )
    done = deliver_waiting(targets(get_settings()))
    context.add_output_metadata(
        {
            "check_id": found["check_id"],
            "delivered": done.delivered,
            "to_retry": done.to_retry,
            "given_up": done.given_up,
        }
    )


@dg.job(tags={"secmon/area": "drift"}, executor_def=dg.in_process_executor)
def drift_alert_job() -> None:
    """One run a CRITICAL check: visible in the UI, and told at once."""
    tell_critical_drift()


@dg.sensor(
    job=drift_alert_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts an alert run for every drift check that ended CRITICAL.",
)
def drift_alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """A failed check does not fail a run, so this reads the checks themselves."""
    cursor = _Cursor.read(context.cursor)
    with transaction() as connection:
        rows = connection.execute(
            """SELECT check_id, model_id, model_version, finished_at,
                      (metrics ->> 'max_psi')::double precision
                 FROM drift_checks
                WHERE alert_level = 'CRITICAL' AND finished_at > %s AND check_id <> ALL (%s)
                ORDER BY finished_at, check_id LIMIT %s""",
            (cursor.since - _OVERLAP, list(cursor.seen), _PAGE),
        ).fetchall()
    if not rows:
        return dg.SkipReason("no new CRITICAL drift check")
    requests = [
        dg.RunRequest(
            run_key=f"drift-alert:{check_id}",
            run_config={
                "ops": {
                    "tell_critical_drift": {
                        "config": {
                            "check_id": check_id,
                            "model_id": model_id,
                            "model_version": version,
                            "max_psi": max_psi,
                        }
                    }
                }
            },
            tags={"secmon/model": model_id, "secmon/drift_check": check_id},
        )
        for check_id, model_id, version, _, max_psi in rows
    ]
    advanced = cursor.advance({check_id: finished_at for check_id, _, _, finished_at, _ in rows})
    return dg.SensorResult(run_requests=requests, cursor=advanced.write())


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Delivers waiting alerts to the configured targets; failed ones with backoff.",
)
def alert_delivery_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Delivery needs no run: it is a few HTTP calls, and its record is the outbox."""
    done = deliver_waiting(targets(get_settings()))
    return dg.SkipReason(
        f"{done.delivered} alerts delivered, {done.to_retry} to retry, {done.given_up} given up"
    )
