"""A load over time: its mean over the last seconds, and the largest value of a long while."""

from __future__ import annotations

from collections import deque

BUCKETS = 60  # a window is kept in this many pieces


class LoadWindow:
    """Time-weighted load of one model, in buckets of a sixtieth of the window."""

    __slots__ = ("buckets", "changed_s", "load", "seen_s", "since_s", "width_s", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.width_s = window_s / BUCKETS
        self.buckets: deque[tuple[int, float]] = deque()  # number, load x seconds
        self.load = 0.0
        self.since_s: float | None = None  # when it was first seen
        self.seen_s = 0.0  # the buckets hold everything up to here
        self.changed_s = 0.0

    def observe(self, load: float, now_s: float) -> None:
        """From *now_s* on, the load is *load*."""
        if self.since_s is None:
            self.since_s = self.seen_s = self.changed_s = now_s
            self.load = load
            return
        self._fill(now_s)
        if load != self.load:
            self.load, self.changed_s = load, now_s

    def settled(self, now_s: float) -> bool:
        """Whether the whole window holds nothing but the present load."""
        return self.since_s is None or now_s >= self.settles_s

    @property
    def settles_s(self) -> float:
        """From when on the window's mean is the present load, if that does not change."""
        return self.changed_s + (BUCKETS + 1) * self.width_s

    def mean(self, now_s: float, window_s: float | None = None) -> float:
        """Mean over the last *window_s* (at most the whole window), as far as it was seen.

        Just seen, it is the load itself.
        """
        if self.since_s is None:
            return 0.0
        if self.settled(now_s) and now_s > self.since_s:
            return self.load
        count = BUCKETS if window_s is None else max(1, round(window_s / self.width_s))
        last = int(now_s // self.width_s)
        first = last - count + 1
        start_s = max(self.since_s, first * self.width_s)
        seconds = now_s - start_s
        if seconds <= 0:
            return self.load
        held = sum(value for number, value in self.buckets if number >= first)
        held += self.load * max(0.0, now_s - max(self.seen_s, start_s))
        return held / seconds

    def _fill(self, now_s: float) -> None:
        width_s = self.width_s
        oldest = int(now_s // width_s) - BUCKETS + 1
        at_s = max(self.seen_s, oldest * width_s) if self.load > 0 else now_s
        while at_s < now_s:
            number = int(at_s // width_s)
            if (number + 1) * width_s <= at_s:  # the quotient of an edge may be a hair too small
                number += 1
            end_s = min(now_s, (number + 1) * width_s)
            if end_s <= at_s:  # the rounding of a very large time
                break
            self._add(number, self.load * (end_s - at_s))
            at_s = end_s
        while self.buckets and self.buckets[0][0] < oldest:
            self.buckets.popleft()
        self.seen_s = max(self.seen_s, now_s)

    def _add(self, number: int, value: float) -> None:
        if self.buckets and self.buckets[-1][0] == number:
            value += self.buckets.pop()[1]
        if value > 0:
            self.buckets.append((number, value))


class SlidingMax:
    """The largest of the numbers of the last while; holds each at most once."""

    __slots__ = ("points",)

    def __init__(self, points: tuple[tuple[float, int], ...] = ()) -> None:
        self.points: deque[tuple[float, int]] = deque(points)  # until when it was, falling values

    def observe(self, value: int, now_s: float, window_s: float) -> int:
        """Note *value* now; the largest since *window_s* ago."""
        points = self.points
        if points:  # the newest one held until now
            points[-1] = (now_s, points[-1][1])
        while points and points[-1][1] <= value:
            points.pop()
        points.append((now_s, value))
        while points[0][0] + window_s <= now_s and len(points) > 1:
            points.popleft()
        return points[0][1]

    def falls_s(self, window_s: float) -> float | None:
        """When the largest is forgotten; None if it is the newest."""
        return self.points[0][0] + window_s if len(self.points) > 1 else None
