"""The inference log: what a model was asked and answered, kept for drift windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from psycopg.types.json import Jsonb

from secmon_dagster.database import transaction
from secmon_dagster.drift.columns import as_columns
from secmon_dagster.drift.windows import WindowSource
from secmon_dagster.errors import DriftError, InvalidInputError

PREDICTION = "prediction"


def log_inferences(
    model_id: str,
    version: str,
    features: Any,
    predictions: Sequence[float | str] | None = None,
    *,
    at: datetime | None = None,
) -> int:
    """Keep the rows a model was asked about, and its answers.

    Returns:
        How many rows were kept.

    Raises:
        InvalidInputError: if there are not as many predictions as rows.
    """
    frame = pd.DataFrame(as_columns(features, "features"))
    if predictions is not None and len(predictions) != len(frame):
        raise InvalidInputError.of("predictions", len(predictions), f"{len(frame)}, one a row")
    moment = at or datetime.now(UTC)
    # JSON has no NaN: a missing value is left out and read back as missing.
    rows = [
        {name: value for name, value in row.items() if not pd.isna(value)}
        for row in frame.astype(object).to_dict("records")
    ]
    answers = [None] * len(rows) if predictions is None else list(predictions)
    with transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO inference_log (model_id, model_version, logged_at, features, prediction)
               VALUES (%s, %s, %s, %s, %s)""",
            [
                (model_id, version, moment, Jsonb(row), None if answer is None else Jsonb(answer))
                for row, answer in zip(rows, answers, strict=True)
            ],
        )
    return len(rows)


def read_inferences(
    model_id: str, source: WindowSource, due_at: datetime
) -> tuple[pd.DataFrame, list[Any] | None]:
    """A window of the log: features, and predictions if every row has one.

    Raises:
        DriftError: if the window holds no row.
    """
    with transaction() as connection:
        rows = connection.execute(
            """SELECT features, prediction FROM inference_log
                WHERE model_id = %(model)s AND logged_at <= %(due)s
                  AND (%(hours)s::float IS NULL
                       OR logged_at > %(due)s - make_interval(secs => %(hours)s * 3600))
                ORDER BY logged_at DESC, log_id DESC LIMIT %(last)s""",
            {"model": model_id, "due": due_at, "hours": source.hours, "last": source.last},
        ).fetchall()
    if not rows:
        raise DriftError(f"the inference log of {model_id} has no rows in this window")
    answers = [row[1] for row in rows]
    return (
        pd.DataFrame.from_records([row[0] for row in rows]),
        None if any(answer is None for answer in answers) else answers,
    )
