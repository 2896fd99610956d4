"""Floors at known times: a cron expression, a time zone, how long, how many replicas."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pilotlight_autoscaler.duration import Seconds

MAX_FLOOR_S = 7 * 86400.0
_SEARCH_DAYS = 8
_NAMES: dict[str, dict[str, int]] = {
    "month": {
        name: n
        for n, name in enumerate(
            ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
        )
    },
    "weekday": {n: k for k, n in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))},
}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


class Floor(BaseModel):
    """``min_replicas`` from each time *cron* names, for *duration_s*."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(description="Minute, hour, day, month, weekday, e.g. '0 8 * * mon-fri'.")
    duration_s: Seconds = Field(gt=0, le=MAX_FLOOR_S, description="How long it holds.")
    min_replicas: int = Field(ge=1, le=10_000, description="Replicas kept meanwhile.")
    timezone: str = Field("UTC", description="Where the clock of cron stands: Europe/London.")

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        parse_cron(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, LookupError) as error:
            raise ValueError(f"{value!r} is no time zone: write one as Europe/London") from error
        return value

    def covers(self, now_s: float) -> bool:
        """Whether the floor holds at *now_s*, in Unix seconds."""
        began_s = self._last_start_s(now_s)
        return began_s is not None and now_s < began_s + self.duration_s

    def next_change_s(self, now_s: float) -> float | None:
        """When ``covers`` may next be another; None if not within a week."""
        began_s = self._last_start_s(now_s)
        if began_s is not None and now_s < began_s + self.duration_s:
            return began_s + self.duration_s
        return self._next_start_s(now_s)

    def spans(self, from_s: float, to_s: float, most: int) -> list[tuple[float, float]] | None:
        """When it holds between two times, each span from its begin on until its end, in order;
        None if it begins more than *most* times in one day.
        """
        zone = ZoneInfo(self.timezone)
        minutes, hours = (sorted(each) for each in parse_cron(self.cron)[:2])
        if len(hours) * len(minutes) > most:
            return None
        first = datetime.fromtimestamp(from_s - self.duration_s, zone)
        days = int((to_s - from_s + self.duration_s) // 86400) + 2
        dates = [first + timedelta(days=n) for n in range(days)]
        dates = [date for date in dates if _matches_day(parse_cron(self.cron), date)]
        starts = [_start_s(date, hour, m) for date in dates for hour in hours for m in minutes]
        found: list[tuple[float, float]] = []
        for at_s in sorted(starts):  # where an hour is skipped they are not
            ends_s = at_s + self.duration_s
            if ends_s <= from_s or at_s > to_s:
                continue
            if found and at_s <= found[-1][1]:
                found[-1] = found[-1][0], ends_s
            else:
                found.append((max(at_s, from_s), ends_s))
        return found

    def _last_start_s(self, now_s: float) -> float | None:
        at = datetime.fromtimestamp(now_s, ZoneInfo(self.timezone))
        return _search(self.cron, at, -1, self.duration_s)

    def _next_start_s(self, now_s: float) -> float | None:
        at = datetime.fromtimestamp(now_s + 60.0, ZoneInfo(self.timezone))
        return _search(self.cron, at, 1, _SEARCH_DAYS * 86400.0)


@lru_cache(maxsize=256)
def parse_cron(text: str) -> tuple[frozenset[int], ...]:
    """The five sets of values; raises ValueError naming the field that is wrong."""
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        raise ValueError(
            f"cron {text!r} must have five fields: minute hour day month weekday, e.g. 0 8 * * 1-5"
        )
    return tuple(
        _values(part, name, low, high)
        for part, (name, low, high) in zip(parts, _FIELDS, strict=True)
    )


def _values(part: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        try:
            start = low if span == "*" else _number(first, name)
            end = high if span == "*" or (step and not dash) else start
            end = _number(last, name) if dash else end
            every = int(step) if step else 1
        except ValueError as error:
            raise ValueError(f"cron: {item!r} is no {name}") from error
        if not (low <= start <= end <= high and every >= 1):
            raise ValueError(f"cron: {item!r} is no {name}: it goes from {low} to {high}")
        found.update(range(start, end + 1, every))
    if name == "weekday" and 7 in found:  # Sunday has two numbers
        found = (found - {7}) | {0}
    return frozenset(found)


def _number(text: str, name: str) -> int:
    names = _NAMES.get(name, {})
    return names[text] if text in names else int(text)


def _matches_day(fields: tuple[frozenset[int], ...], at: datetime) -> bool:
    _, _, days, months, weekdays = fields
    if at.month not in months:
        return False
    in_month, in_week = at.day in days, (at.isoweekday() % 7) in weekdays
    # As cron does: with both restricted, either is enough.
    if len(days) < 31 and len(weekdays) < 7:
        return in_month or in_week
    return in_month and in_week


def _search(cron: str, at: datetime, step: int, horizon_s: float) -> float | None:
    """The nearest start at or after (or before) *at*, within *horizon_s*: whole minutes."""
    fields = parse_cron(cron)
    minutes, hours = sorted(fields[0], reverse=step < 0), sorted(fields[1], reverse=step < 0)
    at = at.replace(second=0, microsecond=0)
    at_s = at.timestamp()  # of two that look alike on a clock, one may be past
    for days in range(int(horizon_s // 86400) + 2):
        day = at + timedelta(days=step * days)
        if not _matches_day(fields, day):
            continue
        for hour in hours:
            for minute in minutes:
                start_s = _start_s(day, hour, minute)
                if (start_s >= at_s) if step > 0 else (start_s <= at_s):
                    return start_s
    return None


def _start_s(day: datetime, hour: int, minute: int) -> float:
    return day.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0).timestamp()
