"""The newest timelines, in memory: nothing on the request path waits for a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from pilotlight_platform.schemas.timeline import Span, Timeline


class TimelineLog:
    """The last *size* requests by id. *finished* is called with each one that has ended."""

    def __init__(self, size: int, finished: Callable[[Timeline], None] | None = None) -> None:
        self._size = size
        self._finished = finished
        self._by_id: OrderedDict[str, Timeline] = OrderedDict()

    def put(self, timeline: Timeline) -> None:
        self._by_id[timeline.request_id] = timeline
        self._by_id.move_to_end(timeline.request_id)
        while len(self._by_id) > self._size:
            self._by_id.popitem(last=False)
        if self._finished is not None and timeline.total_s is not None:
            self._finished(timeline)

    def get(self, request_id: str) -> Timeline | None:
        return self._by_id.get(request_id)


def server_timing(spans: Iterable[Span]) -> str:
    """Spans as a ``Server-Timing`` header value, durations in milliseconds."""
    return ", ".join(f"{span.name};dur={span.duration_s * 1e3:.2f}" for span in spans)
