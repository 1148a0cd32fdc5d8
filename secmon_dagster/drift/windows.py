"""Where a check's rows come from, and which of them are its window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from secmon_dagster.drift.results import SafetyEvent
from secmon_dagster.drift.vocabulary import SafetySeverity
from secmon_dagster.errors import DriftError, InvalidInputError

_ORIGINS = ("asset", "path", "sql", "sklearn", "inference_log")


@dataclass(frozen=True)
class WindowSource:
    """One origin and the cut that is made of its rows.

    ``asset`` is a Dagster asset key with slashes, ``path`` a CSV or Parquet file, ``sql`` a query
    (on ``url``, or the project's database), ``sklearn`` a bundled data set, ``inference_log`` what
    the model itself logged. ``path`` and ``asset`` may hold ``{partition}`` for the day that ended
    at the due time, as ``2026-03-29``. ``hours`` (with ``time_column``, except for the inference
    log) keeps the rows of that long before the due time, ``last`` the last so many rows.
    """

    asset: str | None = None
    path: str | None = None
    sql: str | None = None
    sklearn: str | None = None
    inference_log: bool | None = None
    url: str | None = None
    time_column: str | None = None
    hours: float | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in _ORIGINS if getattr(self, name)]
        if len(given) != 1:
            raise InvalidInputError.of(
                "window source", " and ".join(given) or "none", f"exactly one of {_ORIGINS}"
            )
        if self.url is not None and self.sql is None:
            raise InvalidInputError.of("window source", "url without sql", "url beside sql only")
        if self.hours is not None and not self.hours > 0:
            raise InvalidInputError.of("window source hours", self.hours, "above 0")
        if self.last is not None and self.last < 1:
            raise InvalidInputError.of("window source last", self.last, "1 or more")
        if self.hours is not None and self.time_column is None and not self.inference_log:
            raise InvalidInputError.of(
                "window source", "hours without time_column", "the column that holds the time"
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> WindowSource:
        """A source from a mapping; absent and None are the same.

        Raises:
            InvalidInputError: for an unknown name or no origin.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise InvalidInputError.of("window source", unknown[0], ", ".join(sorted(known)))
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; what is not set is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def located(self, due_at: datetime) -> WindowSource:
        """With ``{partition}`` filled in: the day that had ended at the due time."""
        day = (due_at - timedelta(microseconds=1)).date().isoformat()
        filled = {
            name: value.replace("{partition}", day)
            for name in ("asset", "path")
            if (value := getattr(self, name)) is not None
        }
        return WindowSource(**{**asdict(self), **filled})


def cut(frame: pd.DataFrame, source: WindowSource, due_at: datetime) -> pd.DataFrame:
    """The rows of a window, without its time column.

    Raises:
        DriftError: if the time column is absent or holds no times.
    """
    if source.time_column is not None:
        if source.time_column not in frame.columns:
            raise DriftError(f"the window has no time column {source.time_column}")
        try:
            moments = pd.to_datetime(frame[source.time_column], utc=True)
        except (TypeError, ValueError):
            raise DriftError(f"the time column {source.time_column} holds no times") from None
        frame = frame.drop(columns=[source.time_column])
        kept = moments <= due_at
        if source.hours is not None:
            kept &= moments > due_at - timedelta(hours=source.hours)
        # By position: an index that repeats, as one of tables put together does, names rows twice.
        order = np.argsort(moments[kept].astype("int64").to_numpy(), kind="stable")
        frame = frame[kept].iloc[order]
    return frame if source.last is None else frame.tail(source.last)


def safety_events(rows: pd.DataFrame) -> tuple[SafetyEvent, ...]:
    """What happened, from rows with ``event_type`` and ``severity``; ``count`` is 1 where absent.

    Other columns are left out: they may hold what users wrote.

    Raises:
        DriftError: if one of the two columns is absent, or a severity or count can't be.
    """
    absent = [name for name in ("event_type", "severity") if name not in rows.columns]
    if absent:
        raise DriftError(f"the safety events have no column {absent[0]}")
    counted = rows.assign(count=rows["count"] if "count" in rows.columns else 1)
    try:
        total = counted.groupby(["event_type", "severity"])["count"].sum().reset_index()
        return tuple(
            SafetyEvent(str(event), SafetySeverity(severity), count=int(times))
            for event, severity, times in total.itertuples(index=False)
        )
    except (TypeError, ValueError) as wrong:
        allowed = ", ".join(SafetySeverity)
        raise DriftError(
            f"a safety event has another severity than {allowed}, or no whole count"
        ) from wrong
