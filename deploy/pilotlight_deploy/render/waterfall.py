"""A timeline as a waterfall: one line per span on a common time axis. Pure: values in, text out.

cold start 212 ms · model sample
admit        ▏                        0.4 ms
attach       ▏█                       3.1 ms  746 MB 240 GB/s host, floor 2.0 ms
prefill         ████████████████████ 90.2 ms
"""

from __future__ import annotations

from rich.text import Text

from pilotlight_deploy.output import printable
from pilotlight_deploy.render.units import duration, rate, size
from pilotlight_platform.schemas.timeline import Span, Timeline

_NAME_WIDTH = 12
_DURATION_WIDTH = 9
_MIN_BAR_WIDTH = 10
_STYLES = {"fetch": "yellow", "stage": "yellow", "attach": "cyan", "prefill": "green"}


def headline(timeline: Timeline) -> str:
    """``cold start 212 ms`` or what else came of the request."""
    if timeline.ttft_s is None:
        return f"no token: {printable(timeline.error or f'status {timeline.status}')}"
    kind = "cold start" if timeline.cold else "warm, first token after"
    return f"{kind} {duration(timeline.ttft_s)}"


def summary(timeline: Timeline) -> str:
    """One line: the headline, then the steps that took at least a millisecond."""
    steps = [
        f"{span.name} {duration(span.duration_s)}"
        for span in _shown(timeline)
        if span.name != "first_token" and span.duration_s >= 0.001
    ]
    return f"{headline(timeline)}: {', '.join(steps)}" if steps else headline(timeline)


def waterfall(timeline: Timeline, width: int = 100) -> Text:
    """The headline and one line per span up to the first token, at most *width* columns."""
    spans = _shown(timeline)
    axis_s = _axis_s(timeline, spans)
    details = [_detail(span) for span in spans]
    room = width - _NAME_WIDTH - _DURATION_WIDTH - 3 - max((len(d) + 2 for d in details), default=0)
    bar_width = max(_MIN_BAR_WIDTH, room)
    text = Text(f"{headline(timeline)} · model {printable(timeline.model)}", style="bold")
    for span, detail in zip(spans, details, strict=True):
        before, bar = _bar(span, timeline.at_s, axis_s, bar_width)
        text.append(f"\n{span.name:<{_NAME_WIDTH}} {' ' * before}", style="not bold")
        text.append(bar, style=f"not bold {_STYLES.get(span.name, 'blue')}")
        rest = " " * (bar_width - before - len(bar))
        line = f"{rest} {duration(span.duration_s):>{_DURATION_WIDTH}}  {detail}"
        text.append(line.rstrip(), style="not bold")
    text.no_wrap = True
    text.overflow = "crop"
    return text


def _shown(timeline: Timeline) -> list[Span]:
    """Spans up to the first token, by their start."""
    spans = [span for span in timeline.spans if span.name != "decode"]
    return sorted(spans, key=lambda span: (span.start_s, span.end_s))


def _axis_s(timeline: Timeline, spans: list[Span]) -> float:
    ends = [span.end_s - timeline.at_s for span in spans]
    return max(timeline.ttft_s or max(ends, default=0.0), 1e-6)


def _bar(span: Span, at_s: float, axis_s: float, width: int) -> tuple[int, str]:
    """Columns before the bar, and the bar: at least a sliver, never outside *width*."""
    start = _column(span.start_s - at_s, axis_s, width)
    end = _column(span.end_s - at_s, axis_s, width)
    if end > start:
        return start, "█" * (end - start)
    return min(start, width - 1), "▏"


def _column(offset_s: float, axis_s: float, width: int) -> int:
    return min(width, max(0, round(offset_s / axis_s * width)))


def _detail(span: Span) -> str:
    parts = []
    if span.nbytes:
        parts.append(f"{size(span.nbytes)} {rate(span.nbytes, span.duration_s)}".rstrip())
    if span.tier:
        parts.append(f"from {span.tier}")
    if span.floor_s is not None:
        parts.append(f"floor {duration(span.floor_s)}")
    return ", ".join(parts)
