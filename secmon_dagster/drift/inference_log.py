"""The inference log: what a model was asked and answered, kept for drift windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.drift.columns import as_columns
from secmon_dagster.drift.windows import WindowSource
from secmon_dagster.errors import DriftError, InvalidInputError

PREDICTION = "prediction"
LABEL = "label"


def log_inferences(
    model_id: str,
    version: str,
    features: Any,
    predictions: Sequence[float | str] | None = None,
    *,
    ids: Sequence[str] | None = None,
    at: datetime | None = None,
) -> int:
    """Keep the rows a model was asked about, and its answers.

    Args:
        ids: How the caller names the rows, for :func:`log_labels` later.

    Returns:
        How many rows were kept.

    Raises:
        InvalidInputError: if there are not as many predictions or ids as rows, or a value is
            neither number, text nor boolean.
    """
    frame = pd.DataFrame(as_columns(features, "features"))
    for name, given in (("predictions", predictions), ("ids", ids)):
        if given is not None and len(given) != len(frame):
            raise InvalidInputError.of(name, len(given), f"{len(frame)}, one a row")
    moment = at or datetime.now(UTC)
    # A missing value is left out and read back as missing.
    rows = [
        {
            name: plain
            for name, value in row.items()
            if (plain := _plain(value, str(name))) is not None
        }
        for row in frame.astype(object).to_dict("records")
    ]
    answers = [
        _plain(answer, "predictions")
        for answer in ([None] * len(rows) if predictions is None else predictions)
    ]
    names = [None] * len(rows) if ids is None else list(ids)
    with transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO inference_log (model_id, model_version, logged_at, features, prediction,
                                          inference_id)
               VALUES (%s, %s, %s, %s, %s, %s)""",
            [
                (model_id, version, moment, Jsonb(row), None if answer is None else Jsonb(answer),
                 name)
                for row, answer, name in zip(rows, answers, names, strict=True)
            ],
        )  # fmt: skip
    return len(rows)


def _plain(value: Any, name: str) -> str | float | bool | None:
    """A value as JSON has it; None for what is missing: it has neither NaN nor infinity."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int):
        return value
    raise InvalidInputError.of(
        name, f"a {type(value).__name__}", "numbers, text and booleans; times as seconds"
    )


def log_labels(model_id: str, labels: Mapping[str, float | str | bool]) -> int:
    """Add what turned out to be true of rows that were logged with these ids.

    Returns:
        How many rows got their label; ids that were never logged count for nothing.
    """
    with transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE inference_log SET label = %s WHERE model_id = %s AND inference_id = %s",
            [(Jsonb(_plain(label, "labels")), model_id, name) for name, label in labels.items()],
        )
        return cursor.rowcount


def read_inferences(
    model_id: str, version: str, source: WindowSource, due_at: datetime
) -> pd.DataFrame:
    """A window of the log, oldest row first: features, and the columns ``prediction`` and ``label``
    where any row has one.

    Raises:
        DriftError: if the window holds no row.
    """
    with transaction() as connection:
        rows = connection.execute(
            """SELECT features, prediction, label FROM inference_log
                WHERE model_id = %(model)s AND model_version = %(version)s
                  AND logged_at <= %(due)s
                  AND (%(hours)s::float IS NULL
                       OR logged_at > %(due)s - make_interval(secs => %(hours)s * 3600))
                ORDER BY logged_at DESC, log_id DESC LIMIT %(last)s""",
            {"model": model_id, "version": version, "due": due_at, "hours": source.hours,
             "last": source.last},
        ).fetchall()  # fmt: skip
    if not rows:
        raise DriftError(
            f"the inference log of {model_id} {version} has no rows in this window",
            hint="the model's service logs them: secmon_dagster.drift.inference_log.log_inferences",
        )
    rows.reverse()
    frame = pd.DataFrame.from_records([row[0] for row in rows])
    for column, name in ((1, PREDICTION), (2, LABEL)):
        values = [row[column] for row in rows]
        if any(value is not None for value in values):
            frame[name] = pd.Series(values, dtype=None)
    return frame
