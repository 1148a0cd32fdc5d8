"""Sensors that make the layers' rules bite and count patterns."""

import dagster as dg

from secmon_dagster.orchestration.posture import (
    deliver_decisions,
    end_runs_of_offenders,
    take_in_violations,
    track_dagster_run,
)


@dg.sensor(
    name="posture_rules",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def posture_rules(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Takes in violations, ends offenders' runs, delivers approvals."""
    seen = take_in_violations(context.instance, int((context.cursor or "0").partition(":")[0]))
    ended = end_runs_of_offenders(context.instance)
    decisions = deliver_decisions(context.instance)
    if ended or decisions:
        context.log.info("ended %s; delivered %s decisions", ended, decisions)
    return dg.SensorResult(cursor=str(seen))


def _track(context: dg.RunStatusSensorContext) -> None:
    track_dagster_run(context.instance, context.dagster_run)


workflow_patterns_of_successes = dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="workflow_patterns_of_successes",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts every run that succeeded for its workflow's patterns.",
)(_track)

workflow_patterns_of_failures = dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE,
    name="workflow_patterns_of_failures",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts every run that failed for its workflow's patterns.",
)(_track)

workflow_patterns_of_cancellations = dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.CANCELED,
    name="workflow_patterns_of_cancellations",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts every run that was ended, as those of offenders are, as one that failed.",
)(_track)
