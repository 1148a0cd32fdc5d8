"""``SecurityMonitoringService``: layers, profiles, activity, checks and patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from secmon_dagster.posture.activity import insert_activity, judge
from secmon_dagster.posture.checking import CHECKED_AT_ONCE, check_instances, score_of
from secmon_dagster.posture.layers import LayerConfig, SecurityLayer, parse_mode
from secmon_dagster.posture.patterns import (
    ExecutionData,
    WorkflowPattern,
    parse_pattern_type,
    require_rate,
    successful,
    track,
)
from secmon_dagster.posture.records import (
    MAX_NAME,
    MAX_PROMPT,
    Activity,
    Credential,
    InstanceProfile,
    ScorePoint,
    SecurityCheck,
    require_text,
)
from secmon_dagster.posture.reports import LIBRARY, ActivityReports
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
)
from secmon_dagster.posture.workflow_store import require_workflow


class SecurityMonitoringService(ActivityReports):
    """Under which rules instances run, what they did, and how far they can be trusted.

    Args:
        session: for whom it acts; the platform itself when left out.
        detector: a detector of prompt attacks, beside the built-in patterns.
    """

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
        credential: Credential = LIBRARY,
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
            # One at a time: what is loosened is told from the layer that is replaced.
            connection.execute(
                "SELECT FROM agent_instances WHERE instance_id = %s FOR NO KEY UPDATE",
                (instance_id,),
            )
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

    def instances_under_a_layer(self) -> list[str]:
        """Ids of all instances that have a profile, and so a score."""
        with self._session.begin() as connection:
            rows = fetch(connection, "SELECT instance_id FROM security_profiles ORDER BY 1")
        return [row["instance_id"] for row in rows]

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

    # --- checks -----------------------------------------------------------------------------------

    def run_security_checks(self, instance_id: str) -> list[SecurityCheck]:
        """Run all six checks on the evidence of the last day and renew the score.

        Raises:
            NotFoundError: no such instance.
        """
        with self._session.begin() as connection:
            require_instance(connection, instance_id)
            stored = check_instances(self._session, connection, [instance_id], self._detector)
        return stored[instance_id]

    def run_all_security_checks(self) -> dict[str, float]:
        """Run the checks of every instance that is under a layer.

        Returns:
            The score of each, by instance.
        """
        ids = self.instances_under_a_layer()
        scores: dict[str, float] = {}
        for first in range(0, len(ids), CHECKED_AT_ONCE):
            with self._session.begin() as connection:
                stored = check_instances(
                    self._session,
                    connection,
                    ids[first : first + CHECKED_AT_ONCE],
                    self._detector,
                )
            scores |= {instance_id: score_of(checks) for instance_id, checks in stored.items()}
        return scores

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

    # --- patterns ---------------------------------------------------------------------------------

    def track_workflow_pattern(
        self,
        workflow_id: str,
        pattern_type: str,
        execution_data: ExecutionData | Mapping[str, Any],
    ) -> WorkflowPattern:
        """Count one execution of a workflow; exact however many callers count at once.

        Args:
            execution_data: ``duration_ms``, ``success`` and optionally ``security_score``.

        Raises:
            InvalidInputError: an unknown type, or a figure out of range.
            NotFoundError: no such workflow.
        """
        kind = parse_pattern_type(pattern_type)
        execution = (
            execution_data
            if isinstance(execution_data, ExecutionData)
            else ExecutionData.of(execution_data)
        )
        with self._session.begin() as connection:
            require_workflow(connection, workflow_id)
            pattern = track(connection, workflow_id, kind, execution)
            # Somebody's word, unlike what is counted of runs.
            self._session.record(
                connection,
                "track_workflow_pattern",
                "agent_workflow",
                resource_id=workflow_id,
                details={"pattern_type": kind, **asdict(execution)},
            )
            return pattern

    def get_successful_patterns(
        self, min_success_rate: float = 80, *, limit: int = 100
    ) -> list[WorkflowPattern]:
        """Successful patterns that emerged, best first.

        Raises:
            InvalidInputError: the rate is no number from 0 to 100.
        """
        rate = require_rate(min_success_rate)
        with self._session.begin() as connection:
            return successful(connection, rate, limit)


def layer_limits(name: str) -> dict[str, int | bool]:
    """The limits of the layer with this name or id, in the form a declaration of limits takes.

    Raises:
        NotFoundError: there is no such layer; a run under it must not start.
    """
    with Session.open().begin() as connection:
        row = fetch_one(
            connection, "SELECT * FROM security_layers WHERE name = %s OR layer_id = %s", name, name
        )
    if row is None:
        raise NotFoundError(f"There is no security layer called {name!r}")
    return layer_of(row).limits()
