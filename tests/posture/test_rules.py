"""The layers' rules on Dagster's queue and runs."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from secmon_dagster.audit import get_audit_logger
from secmon_dagster.errors import (
    ConflictError,
    InvalidLimitsError,
    NotFoundError,
    PermissionDeniedError,
)
from secmon_dagster.orchestration import instance as dagster_home
from secmon_dagster.orchestration.executor.config import ExecutorConfig
from secmon_dagster.orchestration.executor.declared import limits_of
from secmon_dagster.orchestration.posture import (
    deliver_decisions,
    end_runs_of_offenders,
    take_in_violations,
)
from secmon_dagster.orchestration.run_queue import LayeredRunCoordinator
from secmon_dagster.posture import (
    AgentManagementService,
    SecurityMonitoringService,
    Session,
    Severity,
)
from secmon_dagster.posture.approvals import decide, list_approvals


@dg.op
def nothing() -> None:
    """Does nothing."""


@dg.job(executor_def=dg.in_process_executor)
def idle() -> None:
    nothing()


@pytest.fixture
def dagster(database, monkeypatch) -> Iterator[dg.DagsterInstance]:
    for name, value in dagster_home.prepare().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


def instance_under(layer: str) -> str:
    made = AgentManagementService().create_instance("bot", owner_id="ada").instance_id
    SecurityMonitoringService().attach_security_layer_to_instance(made, layer)
    return made


def submit(dagster: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    location = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=__file__), location_name="here"
    )
    run = dagster.create_run_for_job(
        idle,
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, "r"), "idle"),
        job_code_origin=dg.reconstructable(idle).get_python_origin(),
        tags={name.replace("_", "/"): value for name, value in tags.items()},
    )
    return dagster.run_coordinator.submit_run(dg.SubmitRunContext(run, workspace=None))


def test_the_platforms_queue_is_the_one_that_asks_for_layers(dagster):
    assert isinstance(dagster.run_coordinator, LayeredRunCoordinator)
    held = {"key": "secmon/approval", "value": "pending", "limit": 0}
    assert held in dagster.run_coordinator.get_run_queue_config().tag_concurrency_limits


def test_a_run_of_an_instance_stands_under_its_layer(dagster):
    run = submit(dagster, secmon_instance=instance_under("default"))
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert run.tags["secmon/layer"] == "default"
    assert "secmon/approval" not in run.tags


def test_a_run_without_an_instance_is_queued_as_ever(dagster):
    run = submit(dagster)
    assert run.status is dg.DagsterRunStatus.QUEUED and "secmon/layer" not in run.tags


def test_a_run_of_an_unknown_instance_fails_instead_of_running_without_rules(dagster):
    with pytest.raises(NotFoundError):
        submit(dagster, secmon_instance="nobody")
    (run,) = dagster.get_runs()
    assert run.status is dg.DagsterRunStatus.FAILURE


def test_a_run_that_needs_approval_is_held_whatever_it_says_until_a_second_person_decides(dagster):
    strict = instance_under("strict")
    run = submit(dagster, secmon_instance=strict, secmon_user="ada", secmon_approval="approved")
    assert run.tags["secmon/approval"] == "pending"
    (waiting,) = list_approvals(Session.open())
    assert (waiting.run_id, waiting.requested_by) == (run.run_id, "ada")
    with pytest.raises(PermissionDeniedError, match="second person"):
        decide(Session.open(actor="ada"), run.run_id, approve=True)
    decide(Session.open(actor="bob"), run.run_id, approve=True)
    with pytest.raises(ConflictError, match="approved by bob"):
        decide(Session.open(actor="eve"), run.run_id, approve=False)
    assert deliver_decisions(dagster) == 1
    assert deliver_decisions(dagster) == 0
    tags = dagster.get_run_by_id(run.run_id).tags
    assert (tags["secmon/approval"], tags["secmon/decided-by"]) == ("approved", "bob")


def test_a_denied_run_is_cancelled(dagster):
    run = submit(dagster, secmon_instance=instance_under("strict"), secmon_user="ada")
    decide(Session.open(actor="bob"), run.run_id, approve=False, reason="not today")
    deliver_decisions(dagster)
    assert dagster.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.CANCELED


def test_what_the_executor_wrote_of_a_run_lowers_the_score_and_ends_the_offenders_runs(dagster):
    strict, calm = instance_under("strict"), instance_under("default")
    run, other = submit(dagster, secmon_instance=strict), submit(dagster, secmon_instance=calm)
    get_audit_logger().append_entry(
        "LIMIT_VIOLATION",
        "ada",
        "step",
        f"{run.run_id}/train",
        {"type": "memory_limit_exceeded", "severity": "high", "message": "took 300 MB of 256"},
        event_type="job.memory_limit",
        execution_id=run.run_id,
    )
    cursor = take_in_violations(dagster, 0)
    assert take_in_violations(dagster, 0) == cursor
    security = SecurityMonitoringService()
    (violation,) = security.get_violations(strict)
    assert (violation.violation_type, violation.run_id) == ("memory_limit_exceeded", run.run_id)
    assert security.get_instance_security_profile(strict).status == "compromised"
    assert end_runs_of_offenders(dagster) == [run.run_id]
    assert end_runs_of_offenders(dagster) == []
    assert dagster.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.CANCELED
    assert dagster.get_run_by_id(other.run_id).status is dg.DagsterRunStatus.QUEUED


@pytest.mark.parametrize(
    "data",
    [None, {}, [1], {"type": ["x"], "severity": "high"}, {"type": "odd", "severity": "high"},
     {"type": "memory_limit_exceeded", "severity": "odd"}],
)  # fmt: skip
def test_an_entry_that_is_no_violation_stops_no_rule(dagster, data):
    bot = instance_under("default")
    run = submit(dagster, secmon_instance=bot)
    for said in (data, {"type": "memory_limit_exceeded", "severity": "high"}):
        get_audit_logger().append_entry(
            "LIMIT_VIOLATION", "eve", "step", "s", said, execution_id=run.run_id
        )
    take_in_violations(dagster, 0)
    assert len(SecurityMonitoringService().get_violations(bot)) == 1


def test_termination_stays_due_until_the_runs_are_over(dagster, monkeypatch):
    strict = instance_under("strict")
    runs = [submit(dagster, secmon_instance=strict) for _ in range(2)]
    security = SecurityMonitoringService()
    security.report_violation(strict, "unauthorized_access", Severity.HIGH, "x")
    cancel = dagster.run_coordinator.cancel_run

    def out_of_reach(run_id: str) -> bool:
        if run_id == runs[0].run_id:
            raise ConnectionError
        return cancel(run_id)

    monkeypatch.setattr(dagster.run_coordinator, "cancel_run", out_of_reach)
    assert end_runs_of_offenders(dagster) == [runs[1].run_id]
    assert security.get_violations(strict)[0].termination == "due"
    monkeypatch.undo()
    assert end_runs_of_offenders(dagster) == [runs[0].run_id]
    (violation,) = security.get_violations(strict)
    assert violation.termination == "done"
    assert set(violation.ended_runs) == {run.run_id for run in runs}


def test_a_run_of_an_instance_that_passed_the_queue_by_does_not_run_without_rules():
    config = ExecutorConfig(
        max_concurrent=1, retries=None, tag_concurrency_limits=[], step_dependency_config=None
    )
    with pytest.raises(InvalidLimitsError, match="under no layer"):
        limits_of("op", {}, {"secmon/instance": "bot"}, config)


def test_an_op_can_not_loosen_the_layer_of_its_run(database):
    config = ExecutorConfig(
        max_concurrent=1, retries=None, tag_concurrency_limits=[], step_dependency_config=None
    )
    for op, run in (("default", "strict"), ("strict", "default")):
        limits = limits_of("op", {"secmon/layer": op}, {"secmon/layer": run}, config)
        assert (limits.max_memory_mb, limits.allow_network) == (256, False)


def test_a_run_under_a_layer_feels_its_limits_and_the_score_falls_for_what_it_tried(dagster):
    security = SecurityMonitoringService()
    tight = security.create_security_layer(
        "tight",
        config={
            "max_memory_mb": 256,
            "allowed_network_access": False,
            "auto_terminate_on_violation": True,
        },
    )
    bot = instance_under(tight.layer_id)
    waiting = submit(dagster, secmon_instance=bot)
    ended = dg.execute_job(
        dg.build_reconstructable_job(
            "secmon_dagster.orchestration.workflows",
            "job_in",
            reconstructable_kwargs={"module": "tests.posture.workflow_jobs", "name": "misbehave"},
        ),
        instance=dagster,
        tags={"secmon/instance": bot, "secmon/layer": waiting.tags["secmon/layer"]},
        raise_on_error=False,
    )
    assert not ended.success
    take_in_violations(dagster, 0)
    seen = {(v.violation_type, v.run_id) for v in security.get_violations(bot)}
    assert seen == {
        ("unauthorized_access", ended.run_id),
        ("memory_limit_exceeded", ended.run_id),
    }
    profile = security.get_instance_security_profile(bot)
    assert (profile.security_score, profile.status) == (0, "compromised")
    assert end_runs_of_offenders(dagster) == [waiting.run_id]


def test_a_score_that_falls_into_a_lower_band_is_told_once(database):
    bot = instance_under("default")
    SecurityMonitoringService().report_violation(
        bot, "unauthorized_access", Severity.CRITICAL, "tried the network"
    )
    with database.admin() as admin:
        rows = admin.execute(
            "SELECT subject_id, event, level, payload ->> 'band' FROM secmon.alert_outbox"
        ).fetchall()
        assert rows == [(bot, "lowered", "CRITICAL", "compromised")]
        # Its audit entry is there with it.
        assert admin.execute(
            "SELECT action FROM secmon.alert_outbox a JOIN secmon.audit_outbox o "
            "ON o.entry_id = a.audit_entry_id"
        ).fetchall() == [("score_fell",)]
    SecurityMonitoringService().run_security_checks(bot)
    with database.admin() as admin:
        assert admin.execute("SELECT count(*) FROM secmon.alert_outbox").fetchone() == (1,)


def test_the_executor_knows_layers_that_an_administrator_made(database):
    SecurityMonitoringService().create_security_layer(
        "tight", config={"max_memory_mb": 64, "allowed_network_access": False}
    )
    config = ExecutorConfig(
        max_concurrent=1, retries=None, tag_concurrency_limits=[], step_dependency_config=None
    )
    limits = limits_of("op", {}, {"secmon/layer": "tight"}, config)
    assert (limits.max_memory_mb, limits.allow_network) == (64, False)
    with pytest.raises(InvalidLimitsError, match="op op"):
        limits_of("op", {}, {"secmon/layer": "nonesuch"}, config)
