"""The main job: every declared model, from its rows to its drift baseline."""

import dagster as dg

from secmon_dagster.orchestration.components.monitored_model import PIPELINE_TAGS

[(_tag, _value)] = PIPELINE_TAGS.items()

secure_training_pipeline = dg.define_asset_job(
    "secure_training_pipeline",
    selection=dg.AssetSelection.tag(_tag, _value),
    description="Train, evaluate, gate and release every declared model, and profile its features "
    "as the baseline of its drift checks.",
)
