"""From rows to what an estimator may be fitted on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api import types

from secmon_dagster.errors import ModelDefinitionError
from secmon_dagster.training.spec import ModelSpec

SPLIT = "split"
MIN_ROWS_PER_CLASS = 2


def select(frame: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """The declared features and the target, checked.

    Returns:
        One column a feature in declared order, then the target; same rows as ``frame`` less those
        without a target.

    Raises:
        ModelDefinitionError: missing or doubled column, text without encoder, missing or infinite
            values without ``impute``, constant target, a class with a single row.
    """
    doubled = sorted(set(frame.columns[frame.columns.duplicated()]))
    if doubled:
        raise ModelDefinitionError(
            f"model {spec.model_id}: data {spec.data} has several columns called "
            f"{', '.join(doubled)}; name each once"
        )
    names = spec.features or [name for name in frame.columns if name != spec.target]
    missing = [name for name in (*names, spec.target, *spec.encode) if name not in frame.columns]
    if missing:
        raise ModelDefinitionError(
            f"model {spec.model_id}: data {spec.data} has no column {', '.join(missing)}; "
            f"it has {', '.join(map(str, frame.columns))}"
        )
    if SPLIT in (*names, spec.target):
        raise ModelDefinitionError(
            f"model {spec.model_id}: column {SPLIT!r} is the pipeline's own; rename yours"
        )
    if not names:
        raise ModelDefinitionError(
            f"model {spec.model_id}: data {spec.data} has no column beside the target {spec.target}"
        )
    table = frame.loc[frame[spec.target].notna(), [*names, spec.target]].reset_index(drop=True)
    # scikit-learn's imputer and encoders know NaN, and fail on the NA of pandas' text columns.
    texts = {name: object for name in names if isinstance(table[name].dtype, pd.StringDtype)}
    table = table.astype(texts).replace({name: {pd.NA: np.nan} for name in texts})
    for name in names:
        _check_feature(table[name], spec)
    _check_target(table[spec.target], spec)
    return table


def split(table: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """Mark each row ``train`` or ``test``, stratified by the target and reproducible.

    Returns:
        ``table`` with a last column ``split``.
    """
    from sklearn.model_selection import train_test_split

    try:
        _, held_out = train_test_split(
            np.arange(len(table)),
            test_size=spec.test_size,
            random_state=spec.random_state,
            stratify=table[spec.target],
        )
    except ValueError as too_small:
        raise ModelDefinitionError(
            f"model {spec.model_id}: {len(table)} rows can't be split with test_size "
            f"{spec.test_size}: {too_small}"
        ) from None
    marks = np.full(len(table), "train", dtype=object)
    marks[held_out] = "test"
    sides = table[spec.target].groupby(marks).unique()
    for name in table[spec.target].unique():
        for side, classes in sides.items():
            if name not in classes:
                raise ModelDefinitionError(
                    f"model {spec.model_id}: no row of class {str(name)!r} of target "
                    f"{spec.target} is among the {side} rows; it has too few for test_size "
                    f"{spec.test_size}"
                )
    return table.assign(**{SPLIT: marks})


def feature_names(table: pd.DataFrame, spec: ModelSpec) -> list[str]:
    """The feature columns of a table made by :func:`select` or :func:`split`."""
    return [name for name in table.columns if name not in (spec.target, SPLIT)]


def _check_feature(column: pd.Series, spec: ModelSpec) -> None:
    name = column.name
    if column.isna().all():
        raise ModelDefinitionError(f"model {spec.model_id}: feature {name} has no values at all")
    numeric = types.is_numeric_dtype(column) or types.is_bool_dtype(column)
    if not numeric and name not in spec.encode:
        example = column.dropna().iloc[0]
        raise ModelDefinitionError(
            f"model {spec.model_id}: feature {name} is no number (for example {example!r}) "
            f"and has no encoder; add `encode: {{{name}: onehot}}`, or leave it out of features"
        )
    if numeric and np.isinf(column.to_numpy(dtype=float, na_value=np.nan)).any():
        raise ModelDefinitionError(f"model {spec.model_id}: feature {name} has infinite values")
    gaps = int(column.isna().sum())
    if gaps and spec.impute is None:
        raise ModelDefinitionError(
            f"model {spec.model_id}: feature {name} has {gaps} missing values; "
            "set `impute: median`, or fill them in the data"
        )


def _check_target(target: pd.Series, spec: ModelSpec) -> None:
    kind = types.infer_dtype(target.astype(object))
    if kind not in ("boolean", "floating", "integer", "string"):
        raise ModelDefinitionError(
            f"model {spec.model_id}: target {spec.target} holds {kind} values; "
            "allowed: all of them text, or numbers, or booleans"
        )
    counts = target.value_counts()
    if len(counts) < 2:
        raise ModelDefinitionError(
            f"model {spec.model_id}: target {spec.target} has {len(counts)} distinct values; "
            "allowed: at least two classes"
        )
    if types.is_float_dtype(target) and len(counts) > 50:
        raise ModelDefinitionError(
            f"model {spec.model_id}: target {spec.target} has {len(counts)} distinct numbers; "
            "only classification is supported"
        )
    if counts.min() < MIN_ROWS_PER_CLASS:
        raise ModelDefinitionError(
            f"model {spec.model_id}: class {str(counts.idxmin())!r} of target {spec.target} has "
            f"{counts.min()} rows; allowed: at least {MIN_ROWS_PER_CLASS}"
        )
