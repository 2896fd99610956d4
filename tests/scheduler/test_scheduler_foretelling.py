"""Cold starts foretold for what is live: the whole scheduler on a real store."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from support.records import model_record
from support.scheduler_bench import Start

from pilotlight_autoscaler import AutoscalingConfig, Tier
from pilotlight_platform.links import Link, Links, links_path
from pilotlight_platform.schemas.model import ModelRecord


def test_scheduler_foretells_the_first_cold_start_of_what_goes_live(start: Start) -> None:
    async def run() -> float:
        async with start(model_record("a", nbytes=8 * 10**9)) as bench:
            return (await bench.scheduler.scaling("a")).cold_start_s

    assert 1.5 < asyncio.run(run()) < 60.0  # 8 GB from a disk, not the second of an unknown model


def test_scheduler_foretells_again_when_a_worker_comes_and_links_were_measured(
    start: Start, tmp_path: Path
) -> None:
    async def run() -> None:
        async with start(model_record("a", nbytes=8 * 10**9)) as bench:
            links = Links(0.0, Link(5e9, 1, "copy"), Link(4e9, 1, "O_DIRECT"))
            links_path(tmp_path).write_text(json.dumps(asdict(links)))
            await bench.join("w0")
            model = bench.scheduler._cluster.model("a")
            await bench.until(lambda: model.record.foretold_on.bytes_per_s.get(Tier.DISK) == 4e9)

    asyncio.run(run())


def test_scheduler_that_is_told_other_settings_keeps_what_was_foretold_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[dict[Tier, float], int]:
        async with start(model_record("a")) as bench:
            model = bench.scheduler._cluster.model("a")
            store = bench.scheduler._models._store
            put = store.put_model

            async def foretold_meanwhile(record: ModelRecord) -> None:
                await put(record)
                found = {"predicted_load_s": {Tier.DISK: 99.0}}
                model.configure(model.record.model_copy(update=found))

            monkeypatch.setattr(store, "put_model", foretold_meanwhile)
            await bench.scheduler.configure("a", AutoscalingConfig(max_replicas=2))
            record = model.record
            return record.predicted_load_s, record.spec.autoscaling.max_replicas

    assert asyncio.run(run()) == ({Tier.DISK: 99.0}, 2)
