"""Build, fit and cross-validate the declared estimator."""

from __future__ import annotations

import importlib
import inspect
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from secmon_dagster.errors import ModelDefinitionError
from secmon_dagster.training.features import SPLIT, feature_names
from secmon_dagster.training.spec import Estimator, ModelSpec


@dataclass(frozen=True)
class Trained:
    """A fitted pipeline and how it did in cross-validation."""

    pipeline: Any
    folds: tuple[float, ...]  # accuracy of each fold

    @property
    def cross_validated_accuracy(self) -> float:
        """Mean over the folds."""
        return math.fsum(self.folds) / len(self.folds)


def classifier(declared: Estimator) -> Any:
    """The unfitted estimator.

    Raises:
        ModelDefinitionError: no such class, no classifier, or an unknown parameter.
    """
    from sklearn.base import BaseEstimator, is_classifier

    module_name, _, class_name = declared.name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise ModelDefinitionError(
            f"estimator {declared.name} doesn't exist in the installed scikit-learn"
        ) from None
    if not (inspect.isclass(kind) and issubclass(kind, BaseEstimator)):
        raise ModelDefinitionError(f"estimator {declared.name} is no scikit-learn estimator class")
    known = inspect.signature(kind).parameters
    unknown = sorted(set(declared.parameters) - set(known))
    if unknown:
        raise ModelDefinitionError(
            f"estimator {declared.name} has no parameter {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )
    try:
        built = kind(**declared.parameters)
        classifies = is_classifier(built)
    except (TypeError, AttributeError) as refused:  # a parameter meant to be an estimator isn't one
        raise ModelDefinitionError(f"estimator {declared.name}: {refused}") from None
    if not classifies:
        raise ModelDefinitionError(
            f"estimator {declared.name} is no classifier; only classification is supported"
        )
    return built


def build_pipeline(spec: ModelSpec, names: list[str]) -> Any:
    """Imputation, encoding and scaling in front of the estimator, in one object, so that the stored
    model takes raw features."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    def chain(imputer: str | None, last: Any) -> Any:
        steps = [("impute", SimpleImputer(strategy=imputer))] if imputer else []
        return Pipeline([*steps, ("last", last)])

    categorical_imputer = "most_frequent" if spec.impute else None
    groups: list[tuple[str, Any, list[str]]] = []
    numeric = [name for name in names if name not in spec.encode]
    if numeric:
        scaler = StandardScaler() if spec.scale else "passthrough"
        groups.append(("numeric", chain(spec.impute, scaler), numeric))
    onehot = [name for name in names if spec.encode.get(name) == "onehot"]
    if onehot:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        groups.append(("onehot", chain(categorical_imputer, encoder), onehot))
    ordinal = [name for name in names if spec.encode.get(name) == "ordinal"]
    if ordinal:
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        groups.append(("ordinal", chain(categorical_imputer, encoder), ordinal))
    return Pipeline(
        [("prepare", ColumnTransformer(groups)), ("classify", classifier(spec.estimator))]
    )


def train(table: pd.DataFrame, spec: ModelSpec) -> Trained:
    """Cross-validate on the training rows, then fit on all of them.

    Args:
        table: as :func:`~secmon_dagster.training.features.split` makes it.

    Raises:
        ModelDefinitionError: a parameter's value is refused, or a class is smaller than the folds.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    names = feature_names(table, spec)
    rows = table[table[SPLIT] == "train"]
    smallest = int(rows[spec.target].value_counts().min())
    if smallest < spec.cross_validation:
        raise ModelDefinitionError(
            f"model {spec.model_id}: cross_validation is {spec.cross_validation}; allowed: at most "
            f"{smallest}, the training rows of the smallest class"
        )
    pipeline = build_pipeline(spec, names)
    folds = StratifiedKFold(spec.cross_validation, shuffle=True, random_state=spec.random_state)
    try:
        scores = cross_val_score(
            pipeline, rows[names], rows[spec.target], cv=folds, error_score="raise"
        )
        pipeline.fit(rows[names], rows[spec.target])
    # scikit-learn checks parameter values when it fits, and what encoders are given
    except (ValueError, TypeError, AttributeError) as refused:
        reason = " ".join(str(refused).split())
        raise ModelDefinitionError(f"estimator {spec.estimator.name}: {reason}") from None
    return Trained(pipeline, tuple(float(score) for score in scores))
