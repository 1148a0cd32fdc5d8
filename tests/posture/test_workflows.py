"""Workflows as real Dagster runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from secmon_dagster.audit import get_audit_logger
from secmon_dagster.errors import InvalidInputError
from secmon_dagster.orchestration.posture import track_dagster_run
from secmon_dagster.orchestration.workflows import DaemonRuns, LocalRuns
from secmon_dagster.posture import AgentManagementService, SecurityMonitoringService, Session
from secmon_dagster.posture.executions import advance, open_executions, start
from tests.posture import workflow_jobs

JOBS = "tests.posture.workflow_jobs"


@pytest.fixture
def lines(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "lines"
    monkeypatch.setenv("SECMON_TEST_LINES", str(path))
    return path


@pytest.fixture
def dagster(database, lines) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def agents(dagster) -> AgentManagementService:
    return AgentManagementService(runs=LocalRuns(dagster, JOBS))


def test_the_complete_setup_runs_as_printed(dagster, agents):
    security = SecurityMonitoringService()
    layer = security.create_security_layer("Production Layer", monitoring_mode="active")
    instance = agents.create_instance(
        "SEO Agent", session_id="session-1", model_name="deepseek-coder"
    )
    security.attach_security_layer_to_instance(
        instance.instance_id, layer.layer_id, "Generate SEO campaign"
    )
    checks = security.run_security_checks(instance.instance_id)
    parent = agents.create_workflow(
        "Main SEO Workflow", workflow_type="sequential", configuration={}, job_name="work"
    )
    child = agents.create_workflow(
        "Content Generation", workflow_type="parallel", configuration={}, job_name="work"
    )
    agents.add_sub_workflow(parent.workflow_id, child.workflow_id, 0, {"status": "success"})
    security.log_instance_activity(
        instance.instance_id, {"action": "start_workflow", "prompt": "Execute main workflow"}
    )
    execution = agents.execute_workflow_with_sub_workflows(
        parent.workflow_id, {"target": "website.com"}, instance_id=instance.instance_id
    )
    for _ in range(3):
        security.track_workflow_pattern(
            parent.workflow_id,
            "successful",
            {"duration_ms": execution.duration_ms, "success": True, "security_score": 95},
        )
    profile = security.get_instance_security_profile(instance.instance_id)
    patterns = security.get_successful_patterns(80)

    assert [check.check_type for check in checks] == [
        "authentication", "authorization", "data_validation",
        "rate_limiting", "input_sanitization", "output_encoding",
    ]  # fmt: skip
    assert execution.status == "success" and execution.duration_ms > 0
    assert [node.status for node in execution.nodes] == ["success", "success"]
    assert profile.security_score > 75 and profile.status == "monitoring"
    assert profile.prompt_history[-1]["prompt"] == "Execute main workflow"
    assert len(patterns) == 1 and patterns[0].success_rate == 100
    runs = {run.run_id: run for run in dagster.get_runs()}
    root, below = execution.nodes
    assert runs[below.run_id].tags["secmon/parent-run"] == root.run_id
    assert below.run_id in runs[root.run_id].tags.values()


def test_children_run_on_what_their_parent_reported(dagster, agents):
    parent = agents.create_workflow("p", job_name="work").workflow_id
    for order, condition in enumerate(
        [
            {"metrics": {"accuracy": {"gte": 0.9}}},
            {"metrics": {"accuracy": {"gt": 0.99}}},
            {"status": "failed"},
            {"metrics": {"rows": {"eq": 12}, "duration_ms": {"lt": 60_000}}},
        ]
    ):
        child = agents.create_workflow(f"c{order}", job_name="work").workflow_id
        agents.add_sub_workflow(parent, child, order, condition)
    execution = agents.execute_workflow_with_sub_workflows(parent)
    assert [node.status for node in execution.nodes] == [
        "success", "success", "skipped", "skipped", "success",
    ]  # fmt: skip
    assert execution.nodes[2].reason == "accuracy > 0.99 does not hold: it is 0.93"


def test_a_failed_parent_starts_only_what_waits_for_failure(dagster, agents, lines):
    parent = agents.create_workflow("p", job_name="breakdown").workflow_id
    usual = agents.create_workflow("usual", job_name="work").workflow_id
    rescue = agents.create_workflow("rescue", job_name="work").workflow_id
    agents.add_sub_workflow(parent, usual, 0)
    agents.add_sub_workflow(parent, rescue, 1, {"status": "failed"})
    execution = agents.execute_workflow_with_sub_workflows(parent)
    assert [node.status for node in execution.nodes] == ["failed", "skipped", "success"]
    assert execution.nodes[0].reason == "its run ended failure"
    assert execution.status == "failed"
    assert len(lines.read_text().splitlines()) == 1


def test_a_job_there_is_not_fails_its_node_and_says_so(dagster, agents):
    workflow = agents.create_workflow("p", job_name="nowhere").workflow_id
    execution = agents.execute_workflow_with_sub_workflows(workflow)
    assert execution.status == "failed"
    assert execution.nodes[0].reason == f"there is no job 'nowhere' in {JOBS}"


def test_an_instance_does_not_say_of_itself_how_far_it_can_be_trusted(dagster, agents):
    instance = agents.create_instance("bot").instance_id
    SecurityMonitoringService().attach_security_layer_to_instance(instance, "default")
    parent = agents.create_workflow("p", job_name="work").workflow_id
    child = agents.create_workflow("c", job_name="work").workflow_id
    agents.add_sub_workflow(parent, child, 0, {"score_above": 80})
    execution = agents.execute_workflow_with_sub_workflows(parent, instance_id=instance)
    assert execution.nodes[1].reason == "security_score > 80 does not hold: it is 75"
    # Nor do numbers that no database keeps stop it.
    assert set(execution.nodes[0].metrics) == {
        "accuracy", "rows", "duration_ms", "security_score",
    }  # fmt: skip


def test_a_run_config_the_job_does_not_take_fails_its_node_and_no_one_elses(dagster, agents):
    session = Session.open()
    declared = AgentManagementService(session)
    workflows = [
        declared.create_workflow("bad", job_name="configured", run_config={"ops": {"no": {}}}),
        declared.create_workflow("good", job_name="work"),
    ]
    bad, good = (
        declared.execute_workflow_with_sub_workflows(w.workflow_id).execution_id for w in workflows
    )
    sensor = workflow_jobs.defs.resolve_sensor_def("workflow_executions")
    tick = sensor.evaluate_tick(
        dg.build_sensor_context(
            instance=dagster, repository_def=workflow_jobs.defs.get_repository_def()
        )
    )
    assert [request.tags["secmon/execution"] for request in tick.run_requests] == [good]
    (node,) = declared.get_execution(bad).nodes
    assert node.status == "failed" and "does not fit job 'configured'" in node.reason
    here = agents.execute_workflow_with_sub_workflows(workflows[0].workflow_id)
    assert here.nodes[0].reason == node.reason


def test_an_execution_that_can_not_be_advanced_holds_up_no_other(dagster, database):
    declared = AgentManagementService()
    workflow = declared.create_workflow("w", job_name="work").workflow_id
    broken, good = (
        declared.execute_workflow_with_sub_workflows(workflow).execution_id for _ in range(2)
    )
    with database.admin() as admin:
        admin.execute(
            "UPDATE secmon.workflow_nodes SET workflow_type = 'spiral' WHERE execution_id = %s",
            (broken,),
        )
    tick = workflow_jobs.defs.resolve_sensor_def("workflow_executions").evaluate_tick(
        dg.build_sensor_context(
            instance=dagster, repository_def=workflow_jobs.defs.get_repository_def()
        )
    )
    assert [request.tags["secmon/execution"] for request in tick.run_requests] == [good]


def test_a_run_in_the_callers_process_stands_under_its_instances_layer_too(dagster, agents):
    instance = agents.create_instance("bot").instance_id
    security = SecurityMonitoringService()
    workflow = agents.create_workflow("w", job_name="work").workflow_id
    security.attach_security_layer_to_instance(instance, "default")
    execution = agents.execute_workflow_with_sub_workflows(workflow, instance_id=instance)
    (run,) = dagster.get_runs()
    assert execution.status == "success" and run.tags["secmon/layer"] == "default"
    security.attach_security_layer_to_instance(instance, "strict")
    refused = agents.execute_workflow_with_sub_workflows(workflow, instance_id=instance)
    assert "second person" in refused.nodes[0].reason
    assert len(dagster.get_runs()) == 1


def test_who_asked_for_an_execution_is_who_can_not_approve_its_runs(dagster):
    workflow = AgentManagementService().create_workflow("w", job_name="work", owner_id="ada")
    administrator = Session.open(actor="root")
    execution = AgentManagementService(administrator).execute_workflow_with_sub_workflows(
        workflow.workflow_id
    )
    runs = DaemonRuns(dagster, {"work": lambda: workflow_jobs.work})
    advance(Session.open(), execution.execution_id, runs)
    assert runs.requests[0].tags["secmon/user"] == "root"


def test_input_that_breaks_the_workflows_schema_starts_nothing(dagster, agents):
    workflow = agents.create_workflow(
        "p", job_name="work", input_schema={"type": "object", "required": ["target"]}
    ).workflow_id
    with pytest.raises(InvalidInputError, match="input_data breaks the schema"):
        agents.execute_workflow_with_sub_workflows(workflow, {})
    assert dagster.get_runs() == []


def test_a_tree_that_grows_too_large_is_refused_whole(agents, database):
    levels = [agents.create_workflow(f"w{n}", job_name="work").workflow_id for n in range(12)]
    for upper, lower in itertools.pairwise(levels):
        agents.add_sub_workflow(upper, lower, 0)
        agents.add_sub_workflow(upper, lower, 1)
    with pytest.raises(InvalidInputError, match="more than 500"):
        agents.execute_workflow_with_sub_workflows(levels[0])
    with database.admin() as admin:
        assert admin.execute("SELECT count(*) FROM secmon.workflow_executions").fetchone() == (0,)


def test_the_daemon_asks_for_the_same_run_until_it_is_there(dagster):
    session = Session.open()
    agents = AgentManagementService(session)
    workflow = agents.create_workflow("p", job_name="work").workflow_id
    execution = agents.execute_workflow_with_sub_workflows(workflow)
    assert execution.status == "running"
    assert open_executions(session) == [execution.execution_id]
    keys = []
    for _ in range(3):
        runs = DaemonRuns(dagster, {"work": lambda: workflow_jobs.work})
        advance(session, execution.execution_id, runs)
        keys += [(request.run_key, request.job_name) for request in runs.requests]
    assert keys == [(execution.nodes[0].node_id, "work")] * 3


def test_a_caller_that_died_before_the_launch_is_continued_and_after_it_is_not_repeated(
    dagster, agents, lines
):
    session = Session.open()
    workflow = agents.create_workflow("p", job_name="work").workflow_id
    execution = start(session, workflow, {}, driver="caller")

    class Dies(LocalRuns):
        def launch(self, node, tags):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance(session, execution.execution_id, Dies(dagster, JOBS))

    class DiesAfterwards(LocalRuns):
        def launch(self, node, tags):
            super().launch(node, tags)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance(session, execution.execution_id, DiesAfterwards(dagster, JOBS))
    ended = advance(session, execution.execution_id, LocalRuns(dagster, JOBS))
    assert ended.status == "success"
    assert len(lines.read_text().splitlines()) == 1


def test_every_run_of_any_job_is_counted_for_its_patterns_once(dagster):
    security = SecurityMonitoringService()
    for _ in range(3):
        result = dg.execute_job(
            dg.build_reconstructable_job(
                "secmon_dagster.orchestration.workflows",
                "job_in",
                reconstructable_kwargs={"module": JOBS, "name": "work"},
            ),
            instance=dagster,
            tags={"secmon/node": "x"},
        )
        run = dagster.get_run_by_id(result.run_id)
        assert track_dagster_run(dagster, run) >= 1
        assert track_dagster_run(dagster, run) == 0
    (pattern,) = security.get_successful_patterns(80)
    assert (pattern.execution_count, pattern.success_rate) == (3, 100)


def counted(database) -> dict[str, int]:
    with database.admin() as admin:
        return dict(
            admin.execute("SELECT pattern_type, execution_count FROM secmon.workflow_patterns")
        )


def test_a_run_that_broke_a_limit_is_not_counted_as_compliant(dagster, database):
    for harmless in (True, False):
        run = dagster.create_run_for_job(workflow_jobs.work, status=dg.DagsterRunStatus.SUCCESS)
        if not harmless:  # it has no instance, and posture_rules has not looked yet
            get_audit_logger().append_entry(
                "LIMIT_VIOLATION", "ada", "step", "s", {}, execution_id=run.run_id
            )
        track_dagster_run(dagster, run)
    assert counted(database) == {"successful": 2, "security_compliant": 1}


def test_a_run_that_was_ended_counts_as_failed_unless_it_never_began(dagster, database):
    for began in (True, False):
        run = dagster.create_run_for_job(workflow_jobs.work)
        if began:
            dagster.report_dagster_event(
                dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "work"), run.run_id
            )
        dagster.report_run_canceled(run)
        track_dagster_run(dagster, dagster.get_run_by_id(run.run_id))
    assert counted(database) == {"successful": 1, "failed": 1}
