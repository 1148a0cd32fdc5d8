"""The half of the service that takes in what instances do and what was seen of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.activity import (
    LoggedActivity,
    insert_activity,
    log_activity,
    note_throttling,
)
from secmon_dagster.posture.layers import MonitoringMode
from secmon_dagster.posture.records import Activity, Credential, Violation
from secmon_dagster.posture.scanning import PromptDetector
from secmon_dagster.posture.score import Severity
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import fetch, layer_of_instance, require_instance, violation_of
from secmon_dagster.posture.violations import CHECK_OF_VIOLATION, note_violation

LIBRARY = Credential()


class ActivityReports:
    """Activity and violations; see :class:`SecurityMonitoringService`."""

    def __init__(
        self, session: Session | None = None, *, detector: PromptDetector | None = None
    ) -> None:
        self._session = session or Session.open()
        self._detector = detector

    def log_instance_activity(
        self,
        instance_id: str,
        activity: Activity | Mapping[str, Any],
        *,
        credential: Credential = LIBRARY,
    ) -> LoggedActivity:
        """Keep an act of an instance, held against its layer's rules first.

        Args:
            activity: ``action`` and optionally ``details``, ``prompt``, ``output``.
            credential: how the instance proved itself.

        Raises:
            InvalidInputError: a field is unknown, of the wrong type or too long.
            NotFoundError: no such instance.
            ThrottledError: over the layer's requests a minute.
            RefusedActError: a strict layer refuses it.
        """
        act = activity if isinstance(activity, Activity) else _activity(activity)
        with self._session.begin() as connection:
            instance = require_instance(connection, instance_id)
            layer = layer_of_instance(connection, instance_id)
            logged, refusal = log_activity(
                self._session, connection, instance, layer, act, credential, self._detector
            )
        if refusal is not None:
            raise refusal
        return logged

    def log_denied_call(
        self, instance_id: str, call: str, credential: Credential, *, out_of_bounds: bool = False
    ) -> None:
        """Keep that a call about an instance was refused, as evidence for its checks.

        Args:
            out_of_bounds: the credential is good, but for another instance: a violation at once.

        The first refusal of a key in a minute says it all: an ended key has no rate, and could
        fill the disk and the audit chain.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            noted = fetch(
                connection,
                "SELECT FROM instance_activities WHERE instance_id = %s AND key_id = %s "
                "AND auth_error IS NOT DISTINCT FROM %s AND denied AND source = 'platform' "
                "AND at > clock_timestamp() - interval '1 minute' LIMIT 1",
                instance_id,
                credential.key_id,
                credential.error,
            )
            if noted:
                return
            row = insert_activity(
                connection, instance_id, Activity(call), credential, denied=True, platform=True
            )
            kind = "foreign_rows" if out_of_bounds else "invalid_credential"
            note_violation(
                self._session,
                connection,
                instance_id,
                layer_of_instance(connection, instance_id),
                kind,
                Severity.HIGH if out_of_bounds else Severity.MEDIUM,
                "a call about another instance"
                if out_of_bounds
                else f"a call with a key that is {credential.error}",
                {"activity_id": row["activity_id"], "key_id": credential.key_id},
            )

    def log_throttled_call(self, instance_id: str, call: str, credential: Credential) -> None:
        """Keep that an instance's own key was held back at its layer's rate, as evidence.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            instance = require_instance(connection, instance_id)
            layer = layer_of_instance(connection, instance_id)
            if layer is not None and layer.monitoring_mode is not MonitoringMode.PASSIVE:
                note_throttling(self._session, connection, instance, layer, call, credential)

    def get_activity_log(
        self, instance_id: str, *, limit: int = 100, before: int | None = None
    ) -> list[dict[str, Any]]:
        """Acts of an instance, newest first, those older than activity ``before``.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            return fetch(
                connection,
                "SELECT activity_id, at, source, action, details, prompt, output, auth_method, "
                "key_id, auth_error, denied, throttled, schema_error, findings "
                "FROM instance_activities WHERE instance_id = %s AND (at, activity_id) < "
                "(coalesce((SELECT at FROM instance_activities WHERE activity_id = %s), "
                "'infinity'), %s) ORDER BY at DESC, activity_id DESC LIMIT %s",
                instance_id,
                before,
                2**63 - 1 if before is None else before,
                limit,
            )

    def report_violation(
        self,
        instance_id: str,
        violation_type: str,
        severity: Severity,
        description: str,
        *,
        details: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        source_id: str | None = None,
    ) -> Violation | None:
        """Note a violation someone else saw; the score falls at once.

        Args:
            source_id: the reporter's id for it, so that a second report changes nothing.

        Returns:
            The violation, or None when it had been reported before.

        Raises:
            InvalidInputError: an unknown kind of violation.
            NotFoundError: no such instance.
        """
        if violation_type not in CHECK_OF_VIOLATION:
            raise InvalidInputError.of(
                "violation_type", violation_type, ", ".join(CHECK_OF_VIOLATION)
            )
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            return note_violation(
                self._session,
                connection,
                instance_id,
                layer_of_instance(connection, instance_id),
                violation_type,
                severity,
                description,
                details or {},
                run_id=run_id,
                source_id=source_id,
            )

    def get_violations(
        self, instance_id: str | None = None, *, limit: int = 100
    ) -> list[Violation]:
        """Violations, newest first, of one instance or of all that may be seen.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            if instance_id is not None:
                require_instance(connection, instance_id)
            rows = fetch(
                connection,
                "SELECT * FROM security_violations WHERE %s::text IS NULL OR instance_id = %s "
                "ORDER BY at DESC, violation_id LIMIT %s",
                instance_id,
                instance_id,
                limit,
            )
        return [violation_of(row) for row in rows]


def _activity(raw: Mapping[str, Any]) -> Activity:
    allowed = ("action", "details", "prompt", "output")
    for name in raw:
        if name not in allowed:
            raise InvalidInputError(
                f"{name} is no field of an activity; allowed: {', '.join(allowed)}", field=name
            )
    return Activity(
        action=raw.get("action", ""),
        details=raw.get("details") or {},
        prompt=raw.get("prompt"),
        output=raw.get("output"),
    )
