"""Results of simulations: a table, and a chart of what waiting is bought for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pilotlight_autoscaler.simulation.result import Result
from pilotlight_deploy.output import printable
from pilotlight_deploy.render.pareto import Point, draw_pareto
from pilotlight_deploy.render.units import duration


def results_table(results: Sequence[Result]) -> Table:
    """One row per policy, in the order given."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("policy", overflow="fold")
    columns = ("cold", "of sessions", "ttft p50", "p95", "p99", "waited", "idle", "loading")
    for column in (*columns, "cost", "starts+stops/h", "to optimum"):
        table.add_column(column, justify="right")
    for result in results:
        ratio = result.optimum_ratio
        table.add_row(
            Text(printable(result.policy)),
            Text(f"{result.cold_rate:.2%}"),
            Text(f"{result.cold_session_rate:.2%}"),
            Text(duration(result.ttft_p50_s)),
            Text(duration(result.ttft_p95_s)),
            Text(duration(result.ttft_p99_s)),
            Text(f"{result.waited_s / 3600:.2f} h"),
            Text(f"{result.idle_s / 3600:.1f} h"),
            Text(f"{result.loading_s / 3600:.1f} h"),
            Text(f"${result.machine_usd + result.waiting_usd:,.0f}"),
            Text(f"{result.scale_actions_per_h:.1f}"),
            Text("" if ratio is None else f"{ratio:.3f}"),
        )
    return table


def pareto_chart(results: Sequence[Result], path: Path) -> None:
    """Write the PNG: worker-hours held against hours waited; down and left is better."""
    points = [
        Point(result.policy, result.held_s / 3600, result.waited_s / 3600) for result in results
    ]
    draw_pareto(points, path, x="idle and loading, worker-hours", y="waited, request-hours")
