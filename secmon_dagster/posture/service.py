"""``SecurityMonitoringService``: layers, profiles, activity, checks and patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from secmon_dagster.posture.activity import LoggedActivity, insert_activity, judge, log_activity
from secmon_dagster.posture.layers import LayerConfig, SecurityLayer, parse_mode
from secmon_dagster.posture.records import (
    MAX_NAME,
    MAX_PROMPT,
    Activity,
    Credential,
    InstanceProfile,
    ScorePoint,
    SecurityCheck,
    Violation,
    require_text,
)
from secmon_dagster.posture.scanning import PromptDetector
from secmon_dagster.posture.score import Severity
from secmon_dagster.posture.session import Session
from secmon_dagster.posture.store import (
    check_of,
    fetch,
    fetch_one,
    layer_of,
    layer_of_instance,
    profile_of,
    require_instance,
    score_point_of,
    violation_of,
)
from secmon_dagster.posture.violations import CHECK_OF_VIOLATION, note_violation

_LIBRARY = Credential()


class SecurityMonitoringService:
    """Under which rules instances run, what they did, and how far they can be trusted.

    Args:
        session: for whom it acts; the platform itself when left out.
        detector: a detector of prompt attacks, beside the built-in patterns.
    """

    def __init__(
        self, session: Session | None = None, *, detector: PromptDetector | None = None
    ) -> None:
        self._session = session or Session.open()
        self._detector = detector

    # --- layers -----------------------------------------------------------------------------------

    def create_security_layer(
        self,
        name: str,
        *,
        config: Mapping[str, object] | LayerConfig | None = None,
        monitoring_mode: str = "active",
        description: str = "",
    ) -> SecurityLayer:
        """Make a layer; rules left out take the defaults of :class:`LayerConfig`.

        Raises:
            InvalidInputError: a rule is unknown or out of range.
            ConflictError: the name is taken.
        """
        require_text("name", name, MAX_NAME)
        require_text("description", description, 2000, empty=True)
        rules = config if isinstance(config, LayerConfig) else LayerConfig.of(config or {})
        mode = parse_mode(monitoring_mode)
        with self._session.begin() as connection:
            row = fetch_one(
                connection,
                "INSERT INTO security_layers (name, description, config, monitoring_mode, "
                "created_by) VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING *",
                name,
                description.replace("\x00", ""),
                Jsonb(asdict(rules)),
                mode,
                self._session.actor,
            )
            if row is None:
                raise ConflictError(
                    f"A security layer called {name!r} exists already", field="name"
                )
            layer = layer_of(row)
            self._session.record(
                connection,
                "create_security_layer",
                "security_layer",
                resource_id=layer.layer_id,
                details={"name": name, "monitoring_mode": mode, **asdict(rules)},
                event_type="config.change",
            )
            return layer

    def get_security_layer(self, layer_id: str) -> SecurityLayer:
        """The layer with this id.

        Raises:
            NotFoundError: there is none.
        """
        with self._session.begin() as connection:
            row = fetch_one(
                connection, "SELECT * FROM security_layers WHERE layer_id = %s", layer_id
            )
        if row is None:
            raise NotFoundError(f"There is no security layer {layer_id!r}")
        return layer_of(row)

    def list_security_layers(self, *, limit: int = 100, after: str = "") -> list[SecurityLayer]:
        """Layers by name, from the one behind ``after``."""
        with self._session.begin() as connection:
            rows = fetch(
                connection,
                "SELECT * FROM security_layers WHERE name > %s ORDER BY name LIMIT %s",
                after,
                limit,
            )
        return [layer_of(row) for row in rows]

    def attach_security_layer_to_instance(
        self,
        instance_id: str,
        layer_id: str,
        prompt_context: str | None = None,
        *,
        may_loosen: bool = True,
        credential: Credential = _LIBRARY,
    ) -> InstanceProfile:
        """Put an instance under a layer; it leaves the one it was under.

        Args:
            prompt_context: what the instance was asked for; starts its prompt history.
            may_loosen: whether the caller may replace a layer by one with any weaker rule.

        Raises:
            NotFoundError: unknown instance or layer.
            PermissionDeniedError: the new layer is weaker and the caller may not loosen.
        """
        if prompt_context is not None:
            require_text("prompt_context", prompt_context, MAX_PROMPT, empty=True)
        layer = self.get_security_layer(layer_id)
        with self._session.begin() as connection:
            instance = require_instance(connection, instance_id)
            current = layer_of_instance(connection, instance_id)
            weaker = [] if current is None else layer.loosens(current)
            if weaker and not may_loosen:
                raise PermissionDeniedError(
                    f"{layer.name!r} is weaker than {current.name if current else ''!r} in "
                    f"{', '.join(weaker)}; only an administrator may loosen a layer"
                )
            connection.execute(
                "INSERT INTO security_profiles (instance_id, layer_id) VALUES (%s, %s) "
                "ON CONFLICT (instance_id) DO UPDATE SET layer_id = EXCLUDED.layer_id, "
                "attached_at = clock_timestamp(), updated_at = clock_timestamp()",
                (instance_id, layer_id),
            )
            act = Activity(
                "security_layer_attached",
                {"layer_id": layer_id, "layer_name": layer.name, "loosened": weaker},
                prompt=prompt_context,
            )
            # The platform's own act has no scope or schema, but a prompt is scanned all the same.
            seen = judge(instance, Activity(act.action, prompt=prompt_context), self._detector)
            insert_activity(connection, instance_id, act, credential, seen, platform=True)
            self._session.record(
                connection,
                "attach_security_layer",
                "agent_instance",
                resource_id=instance_id,
                details={"layer_id": layer_id, "layer_name": layer.name, "loosened": weaker},
                level="warn" if weaker else "info",
                event_type="config.change",
            )
        return self.get_instance_security_profile(instance_id)

    # --- profile ----------------------------------------------------------------------------------

    def get_instance_security_profile(self, instance_id: str) -> InstanceProfile:
        """Layer, recent prompts and acts, score and band of an instance.

        Raises:
            NotFoundError: no such instance, or no layer was attached to it.
        """
        with self._session.begin() as connection:
            row = fetch_one(
                connection,
                "SELECT * FROM instance_security_profiles WHERE instance_id = %s",
                instance_id,
            )
            if row is None:
                require_instance(connection, instance_id)
                raise NotFoundError(
                    f"No security layer is attached to instance {instance_id!r}",
                    hint="Attach one first; the default layer's id is 'default'.",
                )
        return profile_of(row)

    def get_score_history(self, instance_id: str, *, limit: int = 100) -> list[ScorePoint]:
        """How the score moved, newest first.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            rows = fetch(
                connection,
                "SELECT * FROM security_score_history WHERE instance_id = %s "
                "ORDER BY score_id DESC LIMIT %s",
                instance_id,
                limit,
            )
        return [score_point_of(row) for row in rows]

    # --- activity and violations ------------------------------------------------------------------

    def log_instance_activity(
        self,
        instance_id: str,
        activity: Activity | Mapping[str, Any],
        *,
        credential: Credential = _LIBRARY,
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

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
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
                "FROM instance_activities WHERE instance_id = %s AND activity_id < %s "
                "ORDER BY activity_id DESC LIMIT %s",
                instance_id,
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
                "ORDER BY at DESC LIMIT %s",
                instance_id,
                instance_id,
                limit,
            )
        return [violation_of(row) for row in rows]

    def get_security_checks(self, instance_id: str, *, limit: int = 100) -> list[SecurityCheck]:
        """Stored results of an instance, newest first.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            rows = fetch(
                connection,
                "SELECT * FROM security_checks WHERE instance_id = %s "
                "ORDER BY checked_at DESC, check_id LIMIT %s",
                instance_id,
                limit,
            )
        return [check_of(row) for row in rows]


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


def layer_limits(name: str) -> dict[str, int | bool]:
    """The limits of the layer called ``name``, in the form a declaration of limits takes.

    Raises:
        NotFoundError: there is no such layer; a run under it must not start.
    """
    with Session.open().begin() as connection:
        row = fetch_one(connection, "SELECT * FROM security_layers WHERE name = %s", name)
    if row is None:
        raise NotFoundError(f"There is no security layer called {name!r}")
    return layer_of(row).limits()
