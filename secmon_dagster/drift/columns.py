"""Reading a column: which kind it is, which values are missing, and the values as one array.

Missing means NaN, None, NaT, pandas' NA and ±inf. Missing values never enter a statistic; their
share is a metric of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from secmon_dagster.drift.vocabulary import FeatureKind
from secmon_dagster.errors import InvalidInputError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MAX_CATEGORIES = 50_000


@dataclass(frozen=True)
class NumericColumn:
    """Finite values of a numeric or datetime column, in the column's order, shape ``(n,)``."""

    values: Floats
    missing: int

    @property
    def rows(self) -> int:
        """All rows, missing ones included."""
        return len(self.values) + self.missing


@dataclass(frozen=True)
class CategoricalColumn:
    """Rows per category; a category is known by its text."""

    counts: Mapping[str, int]
    missing: int

    @property
    def present(self) -> int:
        """Rows that have a category."""
        return sum(self.counts.values())

    @property
    def rows(self) -> int:
        """All rows, missing ones included."""
        return self.present + self.missing


def as_series(values: Any, name: str) -> pd.Series:
    """Any one-dimensional sequence as a pandas Series.

    Raises:
        InvalidInputError: if it has more than one dimension or is not a sequence.
    """
    if isinstance(values, pd.Series):
        return values
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise InvalidInputError.of(name, f"array of shape {values.shape}", "one dimension")
        return pd.Series(values, name=name)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInputError.of(name, type(values).__name__, "a sequence of values")
    return pd.Series(list(values), name=name, dtype=None)


def as_columns(data: Any, name: str = "data") -> dict[str, pd.Series]:
    """Columns by name, from a DataFrame or a mapping of sequences (these may differ in length).

    Raises:
        InvalidInputError: for anything else, and for repeated column names.
    """
    if isinstance(data, Mapping):
        return {str(key): as_series(value, str(key)) for key, value in data.items()}
    if not isinstance(data, pd.DataFrame):
        raise InvalidInputError.of(
            name, type(data).__name__, "a pandas DataFrame or a mapping of columns"
        )
    repeated = data.columns[data.columns.duplicated()]
    if len(repeated):
        raise InvalidInputError.of(name, f"two columns called {repeated[0]!r}", "unique names")
    return {str(column): data[column] for column in data.columns}


def kind_of(series: pd.Series, name: str) -> FeatureKind:
    """Infer how a column is read.

    Raises:
        InvalidInputError: if it mixes text and numbers, or holds what is none of these.
    """
    if isinstance(series.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(series.dtype):
        return FeatureKind.CATEGORICAL
    if isinstance(series.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_any_dtype(
        series.dtype
    ):
        return FeatureKind.DATETIME
    if pd.api.types.is_complex_dtype(series.dtype):
        raise InvalidInputError.of(name, "complex numbers", "real numbers, text, booleans or times")
    if pd.api.types.is_numeric_dtype(series.dtype):
        return FeatureKind.NUMERIC
    if not pd.api.types.is_object_dtype(series.dtype):
        return FeatureKind.CATEGORICAL
    return _kind_of_objects(series, name)


def _kind_of_objects(series: pd.Series, name: str) -> FeatureKind:
    families = Counter(_family(value) for value in series.dropna())
    if not families:
        return FeatureKind.NUMERIC
    if len(families) > 1:
        found = ", ".join(f"{count} {family}" for family, count in families.most_common())
        raise InvalidInputError.of(name, found, "values of one kind", hint="clean the column first")
    family = next(iter(families))
    if family == "other":
        raise InvalidInputError.of(
            name, "values that are neither numbers, text, booleans nor times", "one of these"
        )
    return {
        "numbers": FeatureKind.NUMERIC,
        "times": FeatureKind.DATETIME,
    }.get(family, FeatureKind.CATEGORICAL)


def _family(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "booleans"
    if isinstance(value, str):
        return "texts"
    if isinstance(value, datetime | date | np.datetime64):
        return "times"
    if isinstance(value, Number) and not isinstance(value, complex):
        return "numbers"
    return "other"


def read_numeric(series: pd.Series, name: str) -> NumericColumn:
    """The finite values of a numeric column as float64.

    A clean float64 column is returned without a copy.

    Raises:
        InvalidInputError: if a value is not a number.
    """
    if pd.api.types.is_bool_dtype(series.dtype):
        series = series.astype("float64")
    try:
        values = np.asarray(
            series.to_numpy(dtype=np.float64, na_value=np.nan)
            if series.dtype != np.float64
            else series.to_numpy(),
            dtype=np.float64,
        )
    except (TypeError, ValueError):
        raise InvalidInputError.of(
            name, f"a column of {_describe(series)}", "numbers only"
        ) from None
    # One sum decides for a clean column: it is finite only if every value is (and no overflow).
    with np.errstate(over="ignore", invalid="ignore"):
        clean = bool(np.isfinite(values.sum()))
    if clean:
        return NumericColumn(values, 0)
    finite = np.isfinite(values)
    return NumericColumn(values[finite], int(len(values) - np.count_nonzero(finite)))


def _describe(series: pd.Series) -> str:
    if not pd.api.types.is_object_dtype(series.dtype):
        return str(series.dtype)
    families = Counter(_family(value) for value in series.dropna())
    return ", ".join(f"{count} {family}" for family, count in families.most_common())


def read_datetime(series: pd.Series, name: str) -> NumericColumn:
    """Instants as seconds since 1970 in UTC. A time without a zone counts as UTC.

    Raises:
        InvalidInputError: if times with and without a zone are mixed, or a value is no time.
    """
    if pd.api.types.is_object_dtype(series.dtype):
        zoned = {
            getattr(value, "tzinfo", None) is not None
            for value in series.dropna()
            if isinstance(value, date | np.datetime64)
        }
        if len(zoned) > 1:
            raise InvalidInputError.of(
                name, "times with and without a time zone", "all with a zone or all without"
            )
    try:
        instants = pd.to_datetime(series, utc=True)
    except (TypeError, ValueError) as unreadable:
        raise InvalidInputError.of(name, f"a column of {_describe(series)}", "times") from (
            unreadable if isinstance(unreadable, TypeError) else None
        )
    stamps = instants.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    present = ~np.isnat(stamps)
    seconds = stamps[present].astype(np.int64).astype(np.float64) / 1e6
    return NumericColumn(seconds, int(len(stamps) - np.count_nonzero(present)))


def read_categorical(series: pd.Series, name: str) -> CategoricalColumn:
    """Count a column's categories; numbers that are whole have one text (1 and 1.0 are one).

    Raises:
        InvalidInputError: if there are more than ``MAX_CATEGORIES`` of them.
    """
    if pd.api.types.is_float_dtype(series.dtype):
        series = series.where(np.isfinite(series.to_numpy(dtype=np.float64, na_value=np.nan)))
    counted = series.value_counts(dropna=True)
    counts: dict[str, int] = {}
    for value, count in zip(counted.index.tolist(), counted.tolist(), strict=True):
        if count:
            text = category_text(value)
            counts[text] = counts.get(text, 0) + int(count)
    if len(counts) > MAX_CATEGORIES:
        raise InvalidInputError.of(
            name,
            f"a column of {len(counts)} categories",
            f"at most {MAX_CATEGORIES}",
            hint="a column of ids says nothing about drift: leave it out",
        )
    return CategoricalColumn(counts, len(series) - sum(counts.values()))


def category_text(value: object) -> str:
    """The text a category is known by.

    >>> category_text(1.0), category_text(1), category_text(True), category_text("a")
    ('1', '1', 'True', 'a')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
