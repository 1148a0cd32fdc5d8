"""``AgentManagementService``: instances, workflows and what is under them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from secmon_dagster.errors import ConflictError, InvalidInputError
from secmon_dagster.posture.conditions import Condition
from secmon_dagster.posture.executions import drive, load, start
from secmon_dagster.posture.records import MAX_NAME, AgentInstance, require_json, require_text
from secmon_dagster.posture.schemas import require_schema
from secmon_dagster.posture.session import Connection, Session
from secmon_dagster.posture.store import fetch, fetch_one, instance_of, require_instance
from secmon_dagster.posture.workflow_store import (
    SUB_WORKFLOWS,
    require_workflow,
    sub_workflow_of,
    sub_workflows_of,
    workflow_of,
)
from secmon_dagster.posture.workflows import (
    AgentWorkflow,
    SubWorkflow,
    WorkflowExecution,
    WorkflowRuns,
    WorkflowType,
    find_path,
    parse_type,
)

# The job that runs workflows which name none: it validates and logs the input.
DEFAULT_JOB = "agent_workflow"
_JOB_NAME = re.compile(r"[A-Za-z0-9_]{1,200}")
_MAX_SCOPES = 1000


class AgentManagementService:
    """Declares instances and workflows, and executes them.

    Args:
        session: for whom it acts; the platform itself when left out.
        runs: where executions run; left out, Dagster's daemon takes them up.
    """

    def __init__(self, session: Session | None = None, *, runs: WorkflowRuns | None = None) -> None:
        self._session = session or Session.open()
        self._runs = runs

    # --- instances --------------------------------------------------------------------------------

    def create_instance(
        self,
        name: str,
        *,
        session_id: str | None = None,
        model_name: str | None = None,
        scopes: Sequence[str] | None = None,
        activity_schemas: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        owner_id: str | None = None,
    ) -> AgentInstance:
        """Declare an agent.

        Args:
            scopes: the actions it may take; left out, its acts can't be judged by scope.
            activity_schemas: for an action, the JSON Schema of its details.
            owner_id: whose it is; the session's user when left out.

        Raises:
            InvalidInputError: naming the field.
        """
        require_text("name", name, MAX_NAME)
        for field, value in (("session_id", session_id), ("model_name", model_name)):
            if value is not None:
                require_text(field, value, MAX_NAME)
        if scopes is not None and len(scopes) > _MAX_SCOPES:
            raise InvalidInputError.of("scopes", len(scopes), f"at most {_MAX_SCOPES} actions")
        for scope in scopes or ():
            require_text("scopes", scope, MAX_NAME)
        require_json("metadata", metadata or {})
        require_json("activity_schemas", activity_schemas or {})
        for action, schema in (activity_schemas or {}).items():
            require_schema(f"activity_schemas.{action}", schema)
        with self._session.begin() as connection:
            row = fetch_one(
                connection,
                "INSERT INTO agent_instances (owner_id, session_id, name, model_name, scopes, "
                "activity_schemas, metadata) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING *",
                self._owner(owner_id),
                session_id,
                name,
                model_name,
                None if scopes is None else list(scopes),
                Jsonb(dict(activity_schemas or {})),
                Jsonb(dict(metadata or {})),
            )
            assert row is not None
            instance = instance_of(row)
            self._session.record(
                connection,
                "create_instance",
                "agent_instance",
                resource_id=instance.instance_id,
                details={"name": name, "owner_id": instance.owner_id, "model_name": model_name},
                event_type="config.change",
            )
            return instance

    def get_instance(self, instance_id: str) -> AgentInstance:
        """The instance with this id.

        Raises:
            NotFoundError: there is none the session may see.
        """
        with self._session.begin() as connection:
            return require_instance(connection, instance_id)

    def list_instances(self, *, limit: int = 100, after: str = "") -> list[AgentInstance]:
        """Instances by id, from the one behind ``after``."""
        with self._session.begin() as connection:
            rows = fetch(
                connection,
                "SELECT * FROM agent_instances WHERE instance_id > %s "
                "ORDER BY instance_id LIMIT %s",
                after,
                limit,
            )
        return [instance_of(row) for row in rows]

    # --- workflows --------------------------------------------------------------------------------

    def create_workflow(
        self,
        name: str,
        *,
        workflow_type: str = WorkflowType.SEQUENTIAL,
        configuration: Mapping[str, Any] | None = None,
        job_name: str = DEFAULT_JOB,
        run_config: Mapping[str, Any] | None = None,
        input_schema: Mapping[str, Any] | None = None,
        owner_id: str | None = None,
    ) -> AgentWorkflow:
        """Declare a workflow: a Dagster job and its run config.

        Args:
            workflow_type: how its children run, ``sequential`` or ``parallel``.
            input_schema: JSON Schema that ``input_data`` of an execution must satisfy.

        Raises:
            InvalidInputError: naming the field.
        """
        require_text("name", name, MAX_NAME)
        kind = parse_type(workflow_type)
        require_json("configuration", configuration or {})
        require_json("run_config", run_config or {})
        if not isinstance(job_name, str) or not _JOB_NAME.fullmatch(job_name):
            raise InvalidInputError.of("job_name", job_name, "letters, digits and _, 1 to 200")
        if input_schema is not None:
            require_json("input_schema", input_schema)
            require_schema("input_schema", input_schema)
        with self._session.begin() as connection:
            row = fetch_one(
                connection,
                "INSERT INTO agent_workflows (owner_id, name, workflow_type, configuration, "
                "job_name, run_config, input_schema) VALUES (%s, %s, %s, %s, %s, %s, %s) "
                "RETURNING *",
                self._owner(owner_id),
                name,
                kind,
                Jsonb(dict(configuration or {})),
                job_name,
                Jsonb(dict(run_config or {})),
                None if input_schema is None else Jsonb(dict(input_schema)),
            )
            assert row is not None
            workflow = workflow_of(row)
            self._session.record(
                connection,
                "create_workflow",
                "agent_workflow",
                resource_id=workflow.workflow_id,
                details={"name": name, "job_name": job_name, "workflow_type": kind},
                event_type="config.change",
            )
            return workflow

    def get_workflow(self, workflow_id: str) -> AgentWorkflow:
        """The workflow with this id.

        Raises:
            NotFoundError: there is none the session may see.
        """
        with self._session.begin() as connection:
            return require_workflow(connection, workflow_id)

    def list_workflows(self, *, limit: int = 100, after: str = "") -> list[AgentWorkflow]:
        """Workflows by id, from the one behind ``after``."""
        with self._session.begin() as connection:
            rows = fetch(
                connection,
                "SELECT * FROM agent_workflows WHERE workflow_id > %s "
                "ORDER BY workflow_id LIMIT %s",
                after,
                limit,
            )
        return [workflow_of(row) for row in rows]

    # --- sub-workflows ----------------------------------------------------------------------------

    def add_sub_workflow(
        self,
        parent_workflow_id: str,
        child_workflow_id: str,
        execution_order: int = 0,
        condition: Mapping[str, Any] | None = None,
    ) -> SubWorkflow:
        """Put one workflow under another.

        Args:
            execution_order: place among its siblings, 0 to 10,000.
            condition: see :mod:`secmon_dagster.posture.conditions`.

        Raises:
            InvalidInputError: a bad order or condition.
            NotFoundError: either workflow is unknown.
            ConflictError: the child already stands there, or the parent would come to be its own
                descendant; the message shows the circle.
        """
        if type(execution_order) is not int or not 0 <= execution_order <= 10_000:
            raise InvalidInputError.of("execution_order", execution_order, "an integer, 0 to 10000")
        require_json("condition", condition or {})
        Condition.of(condition or {})
        with self._session.begin() as connection:
            # One at a time: two edges that are harmless alone may close a circle together.
            connection.execute("LOCK TABLE sub_workflows IN SHARE ROW EXCLUSIVE MODE")
            parent = require_workflow(connection, parent_workflow_id)
            child = require_workflow(connection, child_workflow_id)
            if parent.owner_id != child.owner_id:
                # Its owner could see neither the whole tree nor a circle in it.
                raise ConflictError(
                    f"{child.name!r} belongs to {child.owner_id!r}, {parent.name!r} to "
                    f"{parent.owner_id!r}; a workflow stands only under one of its own owner"
                )
            self._refuse_circle(connection, parent, child)
            added = fetch_one(
                connection,
                "INSERT INTO sub_workflows (parent_workflow_id, child_workflow_id, "
                "execution_order, condition) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING "
                "RETURNING subworkflow_id",
                parent_workflow_id,
                child_workflow_id,
                execution_order,
                Jsonb(dict(condition or {})),
            )
            if added is None:
                raise ConflictError(
                    f"{child.name!r} already stands under {parent.name!r} at order "
                    f"{execution_order}"
                )
            row = fetch_one(
                connection, SUB_WORKFLOWS + "WHERE subworkflow_id = %s", added["subworkflow_id"]
            )
            assert row is not None
            sub = sub_workflow_of(row)
            self._session.record(
                connection,
                "add_sub_workflow",
                "agent_workflow",
                resource_id=parent_workflow_id,
                details={
                    "child_workflow_id": child_workflow_id,
                    "execution_order": execution_order,
                    "condition": dict(condition or {}),
                },
                event_type="config.change",
            )
            return sub

    def get_sub_workflows(self, parent_workflow_id: str) -> list[SubWorkflow]:
        """The children of a workflow, in order.

        Raises:
            NotFoundError: no such workflow.
        """
        with self._session.begin() as connection:
            require_workflow(connection, parent_workflow_id)
            return sub_workflows_of(connection, parent_workflow_id)

    def execute_workflow_with_sub_workflows(
        self,
        workflow_id: str,
        input_data: Mapping[str, Any] | None = None,
        *,
        instance_id: str | None = None,
    ) -> WorkflowExecution:
        """Execute a workflow, then all beneath it whose conditions hold.

        Args:
            instance_id: the agent it runs for: under its layer, and as its evidence.

        Returns:
            The execution as it ended when the service has ``runs`` of its own; otherwise as it was
            taken on, and Dagster's daemon carries it out.

        Raises:
            NotFoundError: no such workflow or instance.
            InvalidInputError: the input breaks the workflow's schema.
        """
        driver = "daemon" if self._runs is None else "caller"
        execution = start(
            self._session, workflow_id, input_data or {}, instance_id=instance_id, driver=driver
        )
        if self._runs is None:
            return execution
        return drive(self._session, execution.execution_id, self._runs)

    def get_execution(self, execution_id: str) -> WorkflowExecution:
        """How an execution stands.

        Raises:
            NotFoundError: there is none the session may see.
        """
        with self._session.begin() as connection:
            return load(connection, execution_id)

    @staticmethod
    def _refuse_circle(connection: Connection, parent: AgentWorkflow, child: AgentWorkflow) -> None:
        edges: dict[str, list[str]] = {}
        for row in fetch(
            connection, "SELECT parent_workflow_id, child_workflow_id FROM sub_workflows"
        ):
            edges.setdefault(row["parent_workflow_id"], []).append(row["child_workflow_id"])
        path = find_path(edges, child.workflow_id, parent.workflow_id)
        if path is not None:
            circle = " → ".join([parent.workflow_id, *path])
            raise ConflictError(f"A workflow can't stand under itself: {circle}", circle=circle)

    def _owner(self, owner_id: str | None) -> str:
        owner = owner_id or self._session.user_id or self._session.actor
        require_text("owner_id", owner, MAX_NAME)
        if self._session.user_id not in (None, owner):
            raise InvalidInputError.of("owner_id", owner, f"only {self._session.user_id!r}")
        return owner
