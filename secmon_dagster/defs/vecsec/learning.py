"""The job that learns from feedback, the sensor that starts it, and a blind test as an asset.

Dagster reads the annotation of ``context`` at run time, hence no postponed annotations here.
"""

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg

from secmon_dagster.audit import enqueue
from secmon_dagster.database import transaction
from secmon_dagster.limits import limits
from secmon_dagster.orchestration.components.drift_monitor import latest_level
from secmon_dagster.orchestration.drift_runs import asset_key

if TYPE_CHECKING:
    from secmon_dagster.vecsec import BlindTestResult

ENOUGH_LABELS = 20
# versions.MODEL_ID, without scikit-learn in every process that loads definitions.
DETECTOR = "vecsec_detector"
_ACTOR = "dagster:vecsec_learning"


@dg.op(tags=limits(memory="2GiB", cpu=100, time="15m"))
def learn_from_feedback(context: dg.OpExecutionContext) -> None:
    """A candidate from the labels that wait; a person approves it."""
    from secmon_dagster.vecsec.learning import learn  # scikit-learn: not in every process

    found = learn(_ACTOR, enqueue=enqueue)
    context.add_output_metadata(
        {
            "version": found.version,
            "accepted": found.accepted,
            "reason": found.reason,
            "refused_sources": list(found.refused),
            "patterns_learned": found.learned,
            **found.metrics,
        }
    )


@dg.job
def vecsec_learning() -> None:
    """Learn from feedback."""
    learn_from_feedback()


@dg.sensor(
    job=vecsec_learning,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def vecsec_feedback_waits(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks for a run once enough labels wait; the newest label's id names it."""
    with transaction() as connection:
        row = connection.execute(
            "SELECT count(*), max(id) FROM secmon.vecsec_feedback WHERE outcome IS NULL"
        ).fetchone()
    waiting, newest = row or (0, None)
    if waiting < ENOUGH_LABELS:
        return dg.SkipReason(f"{waiting} labels wait; {ENOUGH_LABELS} start a round")
    return dg.RunRequest(run_key=f"vecsec-feedback-{newest}")


# The detector's drift has a page as that of every other model: `approve` has its scores watched.
vecsec_detector_drift = dg.AssetSpec(
    asset_key(DETECTOR),
    description="Drift of the prompt detector's scores, check by check.",
    group_name="vecsec",
    kinds={"drift"},
)
vecsec_detector_level = latest_level(DETECTOR)


def plot(result: "BlindTestResult") -> str:
    """Alarms by family at 1 % false alarms, as a Markdown image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.4 * len(result.by_family) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [family.family for family in result.by_family]
    colours = ["tab:red" if family.label else "tab:blue" for family in result.by_family]
    axes.barh(names, [family.alarms for family in result.by_family], color=colours)
    axes.set(xlim=(0, 1), xlabel="share flagged at 1 % false alarms (red: attacks)")
    axes.set_title(f"AUC {result.auc.value:.3f}, recall {result.recall.value:.3f}")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return f"![blind test](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"


@dg.asset(group_name="vecsec", op_tags=limits(memory="1GiB", cpu=100, time="10m"))
def vecsec_blind_test(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """The detector in use on families it has never seen."""
    from secmon_dagster.vecsec import blind_test
    from secmon_dagster.vecsec.events import record
    from secmon_dagster.vecsec.versions import in_use

    result = blind_test(in_use(), tests=1000)
    with transaction() as connection:
        record(connection, "blind_test", run_id=context.run_id, details=result.to_dict())
    return dg.MaterializeResult(
        metadata={
            "auc": result.auc.value,
            "recall_at_1pct_false_alarms": result.recall.value,
            "false_alarms_on_hard_negatives": result.hard_false_alarms.value,
            "by_family": dg.MetadataValue.md(plot(result)),
        }
    )
