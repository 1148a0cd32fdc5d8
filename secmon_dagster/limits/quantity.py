"""Reading ``512MiB``, ``10m`` and ``80%``.

Sizes are binary whatever the spelling: ``MB`` means the same as ``MiB``, as it does in the limits'
JSON form (``maxMemoryMB``), where 2048 MB are 2 GB.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from secmon_dagster.errors import InvalidLimitsError

_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgKMG])i?[bB]?\s*")
_SIZE_IN_MB = {"k": 1 / 1024, "m": 1.0, "g": 1024.0}

_SPAN = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h)\s*")
_SPAN_IN_MS = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}

_PERCENT = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*%\s*")


def refuse(field: str, value: object, allowed: str) -> InvalidLimitsError:
    """The one sentence every wrong limit gets."""
    return InvalidLimitsError(
        f"{field} is {value!r}; allowed: {allowed}", field=field, value=value, allowed=allowed
    )


def finite(field: str, value: object, allowed: str) -> float:
    """A real number; booleans, NaN and infinities are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refuse(field, value, allowed)
    return float(value)


def megabytes(field: str, value: object) -> float:
    """``"512MiB"`` or ``"1.5GB"`` in MB. A bare number is refused: its unit is anyone's guess."""
    allowed = "a size with its unit, such as 512MiB or 2GiB"
    if not isinstance(value, str) or (match := _SIZE.fullmatch(value)) is None:
        raise refuse(field, value, allowed)
    return float(match["number"]) * _SIZE_IN_MB[match["unit"].lower()]


def milliseconds(field: str, value: object) -> float:
    """``"10m"``, ``"1h30m"``, a timedelta, or a number of seconds, in milliseconds."""
    allowed = "a duration such as 90s, 10m, 1h30m, or a number of seconds"
    if isinstance(value, timedelta):
        return value.total_seconds() * 1000.0
    if isinstance(value, str):
        text = value.strip()
        parts = list(_SPAN.finditer(text))
        units = [part["unit"] for part in parts]
        whole = "".join(part.group(0) for part in parts) == text
        if not parts or not whole or len(set(units)) != len(units):
            raise refuse(field, value, allowed)
        return sum(float(part["number"]) * _SPAN_IN_MS[part["unit"]] for part in parts)
    return finite(field, value, allowed) * 1000.0


def percent(field: str, value: object) -> float:
    """``80`` or ``"80%"``, a percentage of one core."""
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value)
        if match is None:
            raise refuse(field, value, "a percentage of one core such as 80 or 80%")
        return float(match["number"])
    return finite(field, value, "a percentage of one core such as 80 or 80%")
