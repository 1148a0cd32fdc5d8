"""When checks are due: cron expressions in a time zone, through daylight-saving changes.

A fixed time of day (``0 0 * * *``) happens once a day: where the clock is put back and the time
comes twice, the first counts; where the clock is put forward over it, it happens that much later.
An expression whose hour is a wildcard (``0 * * * *``) follows elapsed time: an hour that comes
twice is due twice, one that does not come is not due.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from secmon_dagster.drift.vocabulary import CatchUp, ExecutionStatus, ScheduleInterval
from secmon_dagster.errors import InvalidInputError

# More than any clock was ever put forward or back.
_SEAM = timedelta(hours=3)
# How late a daemon may be before a due time counts as missed.
GRACE = timedelta(minutes=5)
MOST_AT_ONCE = 1000

_CRON = {
    ScheduleInterval.HOURLY: "0 * * * *",
    ScheduleInterval.DAILY: "0 0 * * *",
    ScheduleInterval.WEEKLY: "0 0 * * 1",
}


def cron_of(interval: ScheduleInterval, custom: str | None = None) -> str:
    """The five-field cron expression of an interval.

    Raises:
        InvalidInputError: if CUSTOM comes without a valid expression, or another one with one.
    """
    if interval is not ScheduleInterval.CUSTOM:
        if custom is not None:
            raise InvalidInputError.of(
                "schedule_cron", custom, "none, unless schedule_interval is custom"
            )
        return _CRON[interval]
    if custom is None or len(custom.split()) != 5 or not croniter.is_valid(custom):
        raise InvalidInputError.of(
            "schedule_cron", custom, "a cron expression of five fields, such as 0 9 * * MON-FRI"
        )
    return custom


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that IANA name.

    Raises:
        InvalidInputError: if there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidInputError.of("timezone", name, "an IANA name such as Europe/Berlin") from None


def next_due(cron: str, zone: ZoneInfo, after: datetime) -> datetime:
    """The first due time later than ``after``, in UTC.

    Raises:
        InvalidInputError: if there is none: ``0 0 30 2 *``.

    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> next_due("30 2 * * *", berlin, datetime(2026, 3, 28, 12, tzinfo=UTC)).isoformat()
    '2026-03-29T01:30:00+00:00'
    """
    wall = after.astimezone(zone).replace(tzinfo=None, fold=0)
    try:
        quick: datetime = croniter(cron, wall).get_next(datetime)
    except CroniterBadDateError:
        raise InvalidInputError.of(
            "schedule_cron", cron, "an expression that ever comes due"
        ) from None
    candidate = quick.replace(tzinfo=zone)
    if _same_offset_around(zone, after - _SEAM, candidate + _SEAM):
        return candidate.astimezone(UTC)
    return _across_a_seam(cron, zone, after, wall - 2 * _SEAM)


def _same_offset_around(zone: ZoneInfo, start: datetime, end: datetime) -> bool:
    """Whether no clock change lies between; a year apart may hide two, so such count as change."""
    if end - start > timedelta(days=8):
        return False
    step = timedelta(days=1)
    first = start.astimezone(UTC)
    moments = [first + step * day for day in range(9) if first + step * day < end]
    return len({moment.astimezone(zone).utcoffset() for moment in [*moments, end]}) == 1


def _across_a_seam(cron: str, zone: ZoneInfo, after: datetime, start: datetime) -> datetime:
    every_hour = cron.split()[1].startswith("*")
    walls: Iterator[datetime] = croniter(cron, start).all_next(datetime)
    best: datetime | None = None
    for wall in walls:
        for instant in _instants(wall, zone, every_hour=every_hour):
            if instant > after and (best is None or instant < best):
                best = instant
        if best is not None and wall > best.astimezone(zone).replace(tzinfo=None) + _SEAM:
            return best
    raise InvalidInputError.of("schedule_cron", cron, "an expression that ever comes due")


def _instants(wall: datetime, zone: ZoneInfo, *, every_hour: bool) -> list[datetime]:
    """When a wall-clock time happens: once, twice, or (where the clock jumps over it) later."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None, fold=0) != wall:
        return [] if every_hour else [first]
    return [first, second] if every_hour and second != first else [first]


def due_times(cron: str, zone: ZoneInfo, first: datetime, now: datetime) -> list[datetime]:
    """Due times from ``first`` (one itself) to ``now``, at most ``MOST_AT_ONCE`` of them."""

    def following() -> Iterator[datetime]:
        moment = first
        while moment <= now:
            yield moment
            moment = next_due(cron, zone, moment)

    return list(islice(following(), MOST_AT_ONCE))


def plan(
    times: list[datetime], policy: CatchUp, now: datetime, *, enabled: bool, more: bool = False
) -> list[tuple[datetime, ExecutionStatus, str | None]]:
    """What becomes of each due time: PENDING, or SKIPPED and why.

    Args:
        times: From :func:`due_times`, ascending.
        more: Whether others are due after these, too many to be planned at once.
    """
    latest = None if more or not times else times[-1]
    planned: list[tuple[datetime, ExecutionStatus, str | None]] = []
    for moment in times:
        if not enabled:
            reason = "the model is disabled"
        elif policy is CatchUp.LATEST and moment != latest:
            reason = "a later check was due as well; only the latest is caught up"
        elif policy is CatchUp.SKIP and now - moment > GRACE:
            reason = "it was missed, and missed checks are not caught up"
        else:
            planned.append((moment, ExecutionStatus.PENDING, None))
            continue
        planned.append((moment, ExecutionStatus.SKIPPED, reason))
    return planned
