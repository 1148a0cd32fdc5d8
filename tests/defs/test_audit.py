"""The audit chain's asset, schedules and sensors, on real Dagster runs."""

from __future__ import annotations

import dagster as dg
import pytest

from secmon_dagster.audit import Query, get_audit_logger
from secmon_dagster.defs.audit.chain import (
    audit_chain,
    audit_checkpoint_job,
    audit_checkpoint_sensor,
    audit_corruption_sensor,
)
from secmon_dagster.errors import CheckpointError
from secmon_dagster.orchestration.resources import AuditLogResource
from secmon_dagster.orchestration.run_trail import complete_trail, missing_entries

ENTRY = {"action": "A", "actor": "a", "resource_type": "t"}


@pytest.fixture
def log(database):
    log = get_audit_logger()
    log.append_entries([ENTRY] * 5)
    return log


@pytest.fixture
def instance(database):
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tamper(database):
    with database.admin() as admin:
        admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        admin.execute("UPDATE secmon.audit_entries SET actor = 'x' WHERE seq = 3")


def test_the_asset_plots_the_chain(log, instance):
    log.checkpoint()
    result = dg.materialize([audit_chain], instance=instance)
    (materialization,) = result.asset_materializations_for_node("audit_chain")
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    assert (metadata["verdict"], metadata["entries"], metadata["uncovered_entries"]) == (
        "valid", 5, 0,
    )  # fmt: skip
    assert metadata["verify_ms"] > 0
    assert metadata["checkpoint_age_seconds"] >= 0


def test_a_failed_verification_raises_the_alarm_once(log, instance, database):
    tamper(database)
    dg.materialize([audit_chain], instance=instance)
    first = audit_corruption_sensor(dg.build_sensor_context(instance=instance))
    assert "AUDIT_CORRUPTION" in first.skip_reason.skip_message
    again = dg.build_sensor_context(instance=instance, cursor=first.cursor)
    assert "no new failed" in audit_corruption_sensor(again).skip_message
    audit_corruption_sensor(dg.build_sensor_context(instance=instance))  # the cursor was lost
    log.sequence()
    (alarm,) = log.find(Query(action="AUDIT_CORRUPTION"))
    assert (alarm.level, alarm.event_type) == ("critical", "security.violation")
    with database.admin() as admin:
        rows = admin.execute("SELECT source, level FROM secmon.alert_outbox").fetchall()
    assert rows == [("audit", "CRITICAL")]


def test_the_checkpoint_sensor_signs_and_refuses_a_shortened_log(log, instance, database):
    context = dg.build_sensor_context(instance=instance)
    assert audit_checkpoint_sensor(context).skip_message.startswith("signed: 5 entries")
    assert audit_checkpoint_sensor(context).skip_message.startswith("nothing new")
    with database.admin() as admin:
        admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        admin.execute("DELETE FROM secmon.audit_entries WHERE seq > 3")
        admin.execute("UPDATE secmon.audit_head SET seq = 3")
    with pytest.raises(CheckpointError):
        audit_checkpoint_sensor(dg.build_sensor_context(instance=instance))
    alarmed = audit_corruption_sensor(dg.build_sensor_context(instance=instance))
    assert "AUDIT_CORRUPTION" in alarmed.skip_reason.skip_message
    with pytest.raises(CheckpointError):  # ten seconds later: refused again, and no second alarm
        audit_checkpoint_sensor(dg.build_sensor_context(instance=instance))
    again = dg.build_sensor_context(instance=instance, cursor=alarmed.cursor)
    assert "no new failed" in audit_corruption_sensor(again).skip_message


def test_the_checkpoint_job_signs(log, instance):
    assert audit_checkpoint_job.execute_in_process(instance=instance).success
    assert log.store.latest_checkpoint().size == 5


@dg.op
def good() -> None:
    pass


@dg.op
def bad() -> None:
    raise ValueError("no")


@dg.job(tags={"secmon/user": "ann"}, executor_def=dg.in_process_executor)
def fine_job() -> None:
    good()


@dg.job(executor_def=dg.in_process_executor)
def broken_job() -> None:
    bad()


def actions(log, run_id):
    return [(entry.action, entry.job_id) for entry in log.find(Query(execution_id=run_id))]


def test_a_run_of_any_executor_is_in_the_chain_once(log, instance):
    run = fine_job.execute_in_process(instance=instance).dagster_run
    run = instance.get_run_by_id(run.run_id)
    expected = [
        ("RUN_START", None), ("STEP_START", "good"), ("STEP_COMPLETE", "good"),
        ("RUN_COMPLETE", None),
    ]  # fmt: skip
    complete_trail(log, instance, run)
    assert actions(log, run.run_id) == expected
    assert complete_trail(log, instance, run) == []
    assert actions(log, run.run_id) == expected
    entry = log.find(Query(execution_id=run.run_id, event_type="execution.start"))[0]
    assert (entry.actor, entry.resource_id) == ("ann", run.run_id)


def test_a_failed_run_says_which_step_failed(log, instance):
    result = broken_job.execute_in_process(instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    complete_trail(log, instance, run)
    found = log.find(Query(execution_id=run.run_id, level="error"))
    assert [(entry.event_type, entry.job_id) for entry in found] == [
        ("job.failed", "bad"), ("execution.failed", None),
    ]  # fmt: skip


def test_only_what_the_executor_could_not_write_is_added(log, instance):
    result = fine_job.execute_in_process(instance=instance)
    run = instance.get_run_by_id(result.run_id)
    log.append_entry("RUN_START", "ann", "run", run.run_id, execution_id=run.run_id)
    log.append_entry("STEP_START", "ann", "step", "x", execution_id=run.run_id, job_id="good")
    known = log.find(Query(execution_id=run.run_id))
    events = [
        ("good", dg.DagsterEventType.STEP_START),
        ("good", dg.DagsterEventType.STEP_SUCCESS),
    ]
    missing = missing_entries(run, events, known)
    assert [entry["action"] for entry in missing] == ["STEP_COMPLETE", "RUN_COMPLETE"]


def test_an_asset_can_speak_for_itself(log, instance):
    @dg.asset
    def prices(audit_log: AuditLogResource) -> None:
        audit_log.append_entry("IMPORT", "prices_job", "dataset", "prices", {"rows": 1200})

    dg.materialize([prices], resources={"audit_log": AuditLogResource()}, instance=instance)
    (entry,) = log.find(Query(action="IMPORT"))
    assert entry.to_dict()["data"] == {"rows": 1200}
