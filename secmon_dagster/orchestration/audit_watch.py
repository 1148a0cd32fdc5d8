"""Recording verifications of the audit chain, and raising ``AUDIT_CORRUPTION`` when one fails."""

from __future__ import annotations

from datetime import UTC, datetime

from psycopg.types.json import Jsonb

from secmon_dagster.audit import HashChainAuditLogger, Verification, enqueue
from secmon_dagster.database import transaction

ALARM = "AUDIT_CORRUPTION"


def record(result: Verification) -> int:
    """Keep a result for the sensor, the metrics and the asset; its number."""
    with transaction() as connection:
        row = connection.execute(
            "INSERT INTO audit_verifications (verdict, total_entries, duration_ms, result)"
            " VALUES (%s, %s, %s, %s) RETURNING id",
            (result.verdict, result.total_entries, result.duration_ms, Jsonb(result.to_dict())),
        ).fetchone()
    assert row is not None
    return int(row[0])


def failures_after(number: int) -> list[tuple[int, dict[str, object]]]:
    """Failed verifications with a higher number than this, oldest first."""
    with transaction() as connection:
        return connection.execute(
            "SELECT id, result FROM audit_verifications WHERE id > %s AND verdict = 'tampered'"
            " ORDER BY id",
            (number,),
        ).fetchall()


def failed_lately() -> int | None:
    """The last verification that failed in the past hour: its alarm has been raised."""
    with transaction() as connection:
        row = connection.execute(
            "SELECT id FROM audit_verifications WHERE verdict = 'tampered'"
            " AND verified_at > clock_timestamp() - interval '1 hour' ORDER BY id DESC LIMIT 1"
        ).fetchone()
    return None if row is None else int(row[0])


def raise_alarm(number: int, result: dict[str, object]) -> None:
    """An entry and an alert, together, once for each failed verification.

    The entry goes into the very chain that is damaged: what follows the damage still counts.
    """
    summary = {
        key: result[key]
        for key in ("total_entries", "invalid_count", "break_count", "checkpoint_ok", "first_seq")
    }
    with transaction() as connection:
        entry_id = enqueue(
            connection,
            action=ALARM,
            actor="audit_corruption_sensor",
            resource_type="audit_chain",
            data=summary,
            level="critical",
            event_type="security.violation",
            entry_id=f"audit-corruption-{number}",
        )
        connection.execute(
            "INSERT INTO alert_outbox"
            " (alert_id, source, subject_id, event, level, payload, audit_entry_id)"
            " VALUES (%s, 'audit', 'audit_chain', 'raised', 'CRITICAL', %s, %s)"
            " ON CONFLICT DO NOTHING",
            (entry_id, Jsonb({"alert": ALARM, **summary}), entry_id),
        )


def checkpoint_age_seconds(log: HashChainAuditLogger) -> float | None:
    """Seconds since the last checkpoint was made; None if there is none."""
    latest = log.store.latest_checkpoint()
    return None if latest is None else (datetime.now(UTC) - latest.created_at).total_seconds()
