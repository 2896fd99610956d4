"""A plan as text. Pure: values in, renderables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pilotlight_autoscaler import Tier
from pilotlight_autoscaler.planning.forecast import Basis, Forecast, SpanForecast
from pilotlight_autoscaler.planning.options import Change, Option
from pilotlight_autoscaler.planning.plan import Plan
from pilotlight_deploy.output import printable
from pilotlight_deploy.planning import PlanReport
from pilotlight_deploy.render.units import duration, size

_SHOWN = 8  # options; --json has them all
_TIERS = {
    Tier.HOST: "host (in memory: page cache, arena, or attached to another worker)",
    Tier.DISK: "disk (baked, but not in memory)",
    Tier.REMOTE: "remote (today only a deploy fetches; cold starts come from the tiers above)",
    Tier.PEER: "peer",
}
_KEPT = {
    "nothing": "from zero, weights on the disk",
    "page cache": "from zero, while the page cache has the weights",
    "arena": "from zero, weights locked in the arena",
    "idle replica": "from zero after a longer stay",
    "replica": "a replica that is always there",
}
_LINKS = {Tier.HOST: "memory", Tier.DISK: "disk", Tier.REMOTE: "store"}


def plan_text(report: PlanReport) -> RenderableType:
    """The forecast by tier, then the verdict and the options."""
    plan = report.plan
    parts: list[RenderableType] = [Text(_headline(report)), Text(_standing(report)), Text()]
    parts.append(_tiers(plan))
    if plan.slo is None:
        parts.append(Text("\nno cold_start_slo: what the ways to run it take and cost\n"))
    else:
        parts.append(Text(f"\n{_verdict(plan)}\n"))
    shown = _worth_showing(plan.options)[:_SHOWN]
    if shown:
        parts.append(_options(shown))
        parts.append(Text(f"{len(shown)} of {len(plan.options)} ways; --json has all"))
    return Group(*parts)


def _headline(report: PlanReport) -> str:
    weights = report.weights
    own = weights.nbytes[report.quantization]
    fewer = [
        f"{kind} {nbytes / own:.2f} of that"
        for kind, nbytes in weights.nbytes.items()
        if kind != report.quantization
    ]
    about = "about " if weights.estimated else ""
    kind = "" if report.quantization == "none" else f" in {report.quantization}"
    return (
        f"{report.model}: {about}{size(own)}{kind}"
        + (f" ({', '.join(fewer)})" if fewer else "")
        + f", {weights.layers} layers, from {printable(report.source)}"
    )


def _standing(report: PlanReport) -> str:
    """What was measured, and what was not."""
    links = ", ".join(
        f"{_LINKS.get(tier, tier)} {size(link.bytes_per_s)}/s"
        + ("" if link.measured else " (assumed: `pilotlight doctor` measures it)")
        for tier, link in report.links.items()
    )
    if report.platform is None:
        seen = "no platform answers: no timelines"
    else:
        seen = (
            f"cold starts at {report.platform}: {report.own_starts} of these weights, "
            f"{report.other_starts} of other models"
        )
    return f"links: {links}\n{seen}"


def _tiers(plan: Plan) -> Table:
    table = _table("cold start from", "p50", "p95", "p99", "p50 by", "spread by", "spans")
    for each in plan.tiers:
        table.add_row(Text(_TIERS[each.tier]), *_forecast_cells(each))
    if plan.starts_worker is not None:
        table.add_row(
            Text("host, and a worker must be started"), *_forecast_cells(plan.starts_worker)
        )
    return table


def _forecast_cells(forecast: Forecast) -> list[Text]:
    seconds = forecast.seconds
    spans = ", ".join(_span(span) for span in forecast.spans)
    texts = [duration(seconds.p50), duration(seconds.p95), duration(seconds.p99)]
    return [Text(text) for text in (*texts, forecast.basis, forecast.spread, spans)]


def _span(span: SpanForecast) -> str:
    """``stage 1.26 s (1.26 GB, link)``."""
    details = [size(span.nbytes)] if span.nbytes else []
    return f"{span.name} {duration(span.seconds)} ({', '.join([*details, span.basis])})"


def _verdict(plan: Plan) -> str:
    assert plan.slo is not None
    bounds = ", ".join(f"{name} {duration(s)}" for name, s in plan.slo.bounds().items())
    if not plan.options:
        return f"SLO {bounds}: missed: no worker can hold it"
    cheapest = plan.cheapest
    if cheapest is None and not plan.meets_while_cached:
        return f"SLO {bounds}: no setting meets it. {_in_the_way(plan)}"
    if plan.meets:
        verdict = "met by the files as they are"
    elif plan.meets_while_cached:
        verdict = (
            "met by the files as they are only while the page cache has the weights, "
            "which nothing keeps there"
        )
    else:
        verdict = "missed by the files as they are"
    advice = "no setting always meets it"
    if cheapest is not None:
        advice = f"cheapest: {_KEPT[cheapest.kept]}: {_changes(cheapest.changes)}"
    return f"SLO {bounds}: {verdict}; {advice}"


def _in_the_way(plan: Plan) -> str:
    fastest = min(plan.options, key=lambda each: each.forecast.seconds.p95)
    span = plan.floor
    assert span is not None
    what = f"{span.name} {duration(span.seconds)}"
    if span.nbytes and span.tier is not None:
        what += f" for {size(span.nbytes)} over the link of {_LINKS.get(span.tier, span.tier)}"
    basis = "nothing measured says so yet" if span.basis is Basis.ASSUMED else f"by {span.basis}"
    kind = "" if fastest.quantization == "none" else f" in {fastest.quantization}"
    fewest = duration(fastest.forecast.seconds.p95)
    return (
        f"The fastest, {_KEPT[fastest.kept]}{kind}, has a p95 of {fewest}, "
        f"most of it {what} ({basis})"
    )


def _worth_showing(options: Sequence[Option]) -> list[Option]:
    """Those that meet, then the rest; of what differs in bits alone the first that will do."""
    shown: dict[tuple[object, ...], Option] = {}
    for option in sorted(options, key=lambda each: not each.meets):
        pool = any(place.startswith("pool.") for place in option.changes)
        shown.setdefault((option.kept, pool), option)
    return list(shown.values())


def _options(options: Sequence[Option]) -> Table:
    table = _table(
        "meets",
        "way",
        "weights from",
        "change",
        "p95",
        "worker-s a day",
        "memory",
        "cold after a pause",
    )
    for option in options:
        cost = option.cost
        memory = cost.locked_bytes or cost.cached_bytes
        kind = "" if cost.locked_bytes else " that the kernel may take"
        table.add_row(
            Text(_meets(option)),
            Text(_KEPT[option.kept]),
            Text(_from(option)),
            Text(_changes(option.changes)),
            Text(duration(option.forecast.seconds.p95)),
            Text(f"{cost.worker_seconds_per_day:.0f}"),
            Text(f"{size(memory)}{kind}" if memory else "-"),
            Text(f"{option.cold_share:.0%}"),
        )
    return table


def _meets(option: Option) -> str:
    if option.meets is None:
        return "-"
    return "yes" if option.meets else "while cached" if option.meets_cached else "no"


def _from(option: Option) -> str:
    """The tier that the line's p95 assumes, and what holds where it may be another."""
    if option.kept == "replica":
        return "attached already"
    if option.uncached is None:
        return "disk" if option.forecast.tier is Tier.DISK else "memory, locked"
    return f"memory, if still cached; else disk: {duration(option.uncached.seconds.p95)}"


def _changes(changes: Mapping[str, Change]) -> str:
    texts = [
        f"{place}: {value:g}" if isinstance(value, float) else f"{place}: {value}"
        for place, value in changes.items()
    ]
    return ", ".join(texts) or "as it is"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
