"""A cold start's SLO on a running platform: foretold, measured, compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.running_platform import RunningPlatform
from support.waiting import until
from typer.testing import CliRunner

from pilotlight_deploy.cli import app

pytestmark = pytest.mark.system


def shown(platform: RunningPlatform, model: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["show", model, "--url", platform.url, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["cold_starts"]
    return found


def test_cold_start_is_shown_beside_what_was_predicted(
    platform: RunningPlatform, sample: Path, tmp_path: Path
) -> None:
    platform.deploy("eager", sample, idle_timeout_s=1, cold_start_slo={"p95": "30s", "p50": "1ms"})
    before = shown(platform, "eager")
    timeline = platform.timeline(platform.complete("eager"))
    until(lambda: shown(platform, "eager")["all"] is not None)
    after = shown(platform, "eager")

    assert timeline["cold"]
    assert (before["actual"], before["slo_met"]) == ({}, None)
    assert set(before["predicted"]) == {"host", "disk"}
    assert after["predicted"] == before["predicted"]
    (seen,) = after["actual"].values()
    assert seen["count"] == after["all"]["count"] == 1
    assert (
        seen["seconds"]["p50"]
        == seen["seconds"]["p95"]
        == pytest.approx(timeline["ttft_s"], abs=1e-6)
    )
    assert {"admit", "place", "attach", "prefill"} <= set(seen["spans"])
    assert after["slo_met"] is False  # nobody answers within the millisecond of its p50
    log = (platform.settings.log_dir / "scheduler.log").read_text()
    assert "cold_start_slo_missed model=eager count=1" in log

    file = tmp_path / "eager.yaml"
    file.write_text(f"name: eager\nsource: {sample}\nautoscaling: {{cold_start_slo: {{p95: 30s}}}}")
    planned = CliRunner().invoke(app, ["plan", str(file), "--url", platform.url, "--json"])
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert plan["cold_starts_seen"]["own"] == 1
    tier = next(each for each in plan["tiers"] if each["tier"] == next(iter(after["actual"])))
    assert (tier["basis"], tier["seconds"]["p50"]) == ("timelines", seen["seconds"]["p50"])
