"""Train a declared model: read its rows, check them, fit, evaluate, store without pickle.

No Dagster here: ``orchestration.components.monitored_model`` strings these functions into assets.
"""

from secmon_dagster.training.estimator import Trained, build_pipeline, classifier, train
from secmon_dagster.training.evaluation import (
    Evaluation,
    confusion_picture,
    evaluate,
    metric_table,
    roc_picture,
)
from secmon_dagster.training.features import SPLIT, feature_names, select, split
from secmon_dagster.training.sources import load
from secmon_dagster.training.spec import (
    COMPONENT_TYPE,
    DataSource,
    Drift,
    Estimator,
    Limits,
    ModelSpec,
    Outcomes,
    filled,
    read_spec,
    read_specs,
)
from secmon_dagster.training.store import (
    StoredModel,
    current_version,
    library_versions,
    load_model,
    mark_current,
    publish,
    record_metrics,
    record_model,
    released_directory,
    whole_or_nothing,
    write_model,
)

__all__ = [
    "COMPONENT_TYPE",
    "SPLIT",
    "DataSource",
    "Drift",
    "Estimator",
    "Evaluation",
    "Limits",
    "ModelSpec",
    "Outcomes",
    "StoredModel",
    "Trained",
    "build_pipeline",
    "classifier",
    "confusion_picture",
    "current_version",
    "evaluate",
    "feature_names",
    "filled",
    "library_versions",
    "load",
    "load_model",
    "mark_current",
    "metric_table",
    "publish",
    "read_spec",
    "read_specs",
    "record_metrics",
    "record_model",
    "released_directory",
    "roc_picture",
    "select",
    "split",
    "train",
    "whole_or_nothing",
    "write_model",
]
