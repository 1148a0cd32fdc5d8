"""Posture in Dagster, really run: ops, the asset with its checks, the schedule, the sensors."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from secmon_dagster.defs.posture.checks import (
    agent_instance_partitions,
    instances,
    posture_check,
    posture_checks,
    posture_schedule,
)
from secmon_dagster.defs.posture.rules import (
    posture_rules,
    workflow_patterns_of_cancellations,
    workflow_patterns_of_failures,
    workflow_patterns_of_successes,
)
from secmon_dagster.orchestration import posture_ops as ops
from secmon_dagster.orchestration.posture import AgentManagement, SecurityMonitoring
from secmon_dagster.posture import (
    AgentManagementService,
    CheckType,
    SecurityMonitoringService,
    Severity,
)

RESOURCES = {"security": SecurityMonitoring(), "agents": AgentManagement()}


@pytest.fixture
def instance(database) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def bots(count: int) -> list[str]:
    """Agents under the default layer."""
    agents, security = AgentManagementService(), SecurityMonitoringService()
    made = [agents.create_instance(f"b{n}", scopes=["act"]).instance_id for n in range(count)]
    for one in made:
        security.attach_security_layer_to_instance(one, "default")
    return sorted(made)


@dg.job
def complete_setup() -> None:
    """Every action there is, one op each."""
    bot = ops.attach_security_layer(ops.create_instance(), ops.create_security_layer())
    ops.run_security_checks(ops.log_instance_activity(bot))
    main = ops.create_workflow.alias("main")()
    tree = ops.add_sub_workflow(main, ops.create_workflow.alias("below")())
    ops.execute_workflow(tree, bot)
    ops.track_workflow_pattern(tree)


def test_every_action_is_an_op_and_together_they_set_an_agent_up(instance):
    done = complete_setup.execute_in_process(
        instance=instance,
        resources=RESOURCES,
        run_config={
            "ops": {
                "create_security_layer": {
                    "config": {"name": "Tight", "rules": {"max_memory_mb": 64}}
                },
                "create_instance": {"config": {"name": "SEO Agent", "scopes": ["start"]}},
                "log_instance_activity": {"config": {"action": "start", "output": "Begun"}},
                "main": {"config": {"name": "Main"}},
                "below": {"config": {"name": "Below", "workflow_type": "parallel"}},
                "add_sub_workflow": {"config": {"condition": {"status": "success"}}},
                "execute_workflow": {"config": {"input_data": {"target": "website.com"}}},
                "track_workflow_pattern": {
                    "config": {"pattern_type": "successful", "duration_ms": 5.0, "success": True}
                },
            }
        },
    )
    agents, security = AgentManagementService(), SecurityMonitoringService()
    (bot,) = agents.list_instances()
    profile = security.get_instance_security_profile(bot.instance_id)
    assert done.output_for_node("run_security_checks") == profile.security_score > 75
    assert profile.layer_id == done.output_for_node("create_security_layer")
    assert [act["action"] for act in profile.activity_log][-1] == "start"
    execution = agents.get_execution(done.output_for_node("execute_workflow"))
    assert [node.status for node in execution.nodes] == ["pending", "pending"]
    assert execution.instance_id == bot.instance_id
    metadata = done.events_for_node("track_workflow_pattern")
    assert any("executions" in str(event.event_specific_data) for event in metadata)


def test_an_agent_is_a_partition_whose_checks_are_asset_checks(instance):
    (bot,) = bots(1)
    instance.add_dynamic_partitions("agent_instances", [bot])
    SecurityMonitoringService().log_instance_activity(
        bot, {"action": "odd", "output": "<script>x</script>"}
    )
    result = dg.materialize([instances], partition_key=bot, instance=instance, resources=RESOURCES)
    (materialization,) = result.asset_materializations_for_node("instances")
    shown = {name: value.value for name, value in materialization.metadata.items()}
    profile = SecurityMonitoringService().get_instance_security_profile(bot)
    assert shown == {
        "security_score": profile.security_score, "band": "warning", "layer": "default",
    }  # fmt: skip
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert set(checks) == set(CheckType)
    failed = {name for name, check in checks.items() if not check.passed}
    assert failed == {"authorization", "output_encoding"}
    assert checks["authorization"].severity is dg.AssetCheckSeverity.ERROR
    assert checks["authentication"].metadata["status"].value == "monitoring"


def test_the_schedule_checks_every_agent_in_one_run_and_makes_their_partitions(instance):
    made = bots(3)
    tick = posture_schedule.evaluate_tick(
        dg.build_schedule_context(instance=instance, resources=RESOURCES)
    )
    assert len(tick.run_requests) == 1 and posture_schedule.job_name == posture_checks.name
    assert posture_schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    done = posture_checks.execute_in_process(instance=instance, resources=RESOURCES)
    assert done.output_for_node("check_every_instance") == dict.fromkeys(made, 75.0)
    assert sorted(instance.get_dynamic_partitions("agent_instances")) == made
    security = SecurityMonitoringService()
    for bot in made:
        assert len(security.get_security_checks(bot)) == 6
        assert [point.cause for point in security.get_score_history(bot)] == ["checks"]


def test_one_agent_is_checked_by_a_job_of_its_own(instance):
    bot, other = bots(2)
    done = posture_check.execute_in_process(
        instance=instance,
        resources=RESOURCES,
        run_config={"ops": {"run_security_checks": {"inputs": {"instance_id": bot}}}},
    )
    assert done.output_for_node("run_security_checks") == 75.0
    assert SecurityMonitoringService().get_security_checks(other) == []


def test_new_agents_become_partitions_by_themselves(instance):
    made = bots(2)
    instance.add_dynamic_partitions("agent_instances", made[:1])
    result = agent_instance_partitions(dg.build_sensor_context(instance=instance))
    (request,) = result.dynamic_partitions_requests
    assert request.partition_keys == made[1:]


def test_the_sensor_of_the_rules_tells_of_a_fallen_score_once(instance, database):
    (bot,) = bots(1)
    SecurityMonitoringService().report_violation(bot, "foreign_rows", Severity.CRITICAL, "tried")
    first = posture_rules(dg.build_sensor_context(instance=instance))
    again = posture_rules(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    assert again.cursor == first.cursor
    with database.admin() as admin:
        told = admin.execute("SELECT source, subject_id FROM secmon.alert_outbox").fetchall()
    assert told == [("posture", bot)]


@dg.job
def breaks() -> None:
    @dg.op
    def break_down() -> None:
        raise RuntimeError("broken on purpose")

    break_down()


def test_the_sensors_count_each_run_for_its_patterns(instance, database):
    for job, sensor, event in (
        (posture_checks, workflow_patterns_of_successes, "get_run_success_event"),
        (breaks, workflow_patterns_of_failures, "get_run_failure_event"),
    ):
        done = job.execute_in_process(
            instance=instance,
            resources=RESOURCES if job is posture_checks else None,
            raise_on_error=False,
        )
        sensor(
            dg.build_run_status_sensor_context(
                sensor_name=sensor.name,
                dagster_instance=instance,
                dagster_run=instance.get_run_by_id(done.run_id),
                dagster_event=getattr(done, event)(),
            )
        )
    with database.admin() as admin:
        counted = admin.execute(
            "SELECT w.job_name, p.pattern_type FROM secmon.workflow_patterns p "
            "JOIN secmon.agent_workflows w USING (workflow_id) ORDER BY 1, 2"
        ).fetchall()
    assert ("breaks", "failed") in counted and ("posture_checks", "successful") in counted


@pytest.mark.parametrize(
    "sensor",
    [
        posture_rules,
        agent_instance_partitions,
        workflow_patterns_of_successes,
        workflow_patterns_of_failures,
        workflow_patterns_of_cancellations,
    ],
)
def test_each_sensor_runs_without_being_switched_on(sensor):
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
