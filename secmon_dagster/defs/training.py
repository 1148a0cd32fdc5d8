"""The main job: every declared model, from its rows to its drift baseline."""

import dagster as dg

from secmon_dagster.orchestration.components.monitored_model import PIPELINE_TAGS
from secmon_dagster.orchestration.executor import resource_limit_executor

[(_tag, _value)] = PIPELINE_TAGS.items()

# Imported once before the steps fork, not once in each of them.
LIBRARIES = [
    "matplotlib.figure",
    "skops.io",
    "sklearn.compose",
    "sklearn.datasets",
    "sklearn.ensemble",
    "sklearn.impute",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.pipeline",
]

secure_training_pipeline = dg.define_asset_job(
    "secure_training_pipeline",
    executor_def=resource_limit_executor.configured({"preload_modules": LIBRARIES}),
    selection=dg.AssetSelection.tag(_tag, _value),
    description="Train, evaluate, gate and release every declared model, and profile its features "
    "as the baseline of its drift checks.",
)
