"""What all live models keep, against the pool that there is."""

import asyncio
import logging

import pytest
from support.records import model_record

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig
from pilotlight_platform.errors import FloorsTooHighError
from pilotlight_platform.scheduler.cluster import Cluster
from pilotlight_platform.scheduler.floors import Floors
from pilotlight_platform.schemas.cluster import WorkerInfo
from pilotlight_platform.schemas.model import ModelRecord
from pilotlight_platform.settings import Settings

GB = 10**9


def build(*records: ModelRecord, workers: int = 2, fixed: bool = False) -> Floors:
    """A pool of workers of 8 GB."""
    values = {"workers": workers} if fixed else {"pool": PoolConfig(max_workers=workers)}
    settings = Settings.model_validate({"worker_capacity_bytes": 8 * GB, **values})
    cluster = Cluster({record.spec.name: record for record in records})
    return Floors(cluster, settings, lambda: settings.pool_config)


def config(least: int) -> AutoscalingConfig:
    return AutoscalingConfig(min_replicas=least, max_replicas=9)


def daily(hour: int, replicas: int, least: int = 0) -> AutoscalingConfig:
    """More of them for two hours."""
    floor = {"cron": f"0 {hour} * * *", "duration_s": "2h", "min_replicas": replicas}
    values = {"min_replicas": least, "max_replicas": 9, "schedule": [floor]}
    return AutoscalingConfig.model_validate(values)


def kept(name: str, least: int, gb: int) -> ModelRecord:
    return model_record(name, nbytes=gb * GB, min_replicas=least, max_replicas=9)


def test_floors_refuse_a_model_that_needs_more_workers_than_there_may_be() -> None:
    floors = build(kept("a", 1, 6), kept("b", 1, 6))

    with pytest.raises(
        FloorsTooHighError, match=r"together need 3 workers.*raise max_workers to 3"
    ):
        asyncio.run(floors.check_model("c", config(1), 6 * GB))


def test_floors_refuse_before_the_bake_what_no_bytes_can_mend() -> None:
    with pytest.raises(FloorsTooHighError, match="c: min_replicas keeps 3 replicas"):
        asyncio.run(build().check_model("c", config(3)))


def test_floors_of_a_fixed_pool_name_the_option_that_it_has() -> None:
    with pytest.raises(FloorsTooHighError, match="or raise --workers to 3"):
        asyncio.run(build(fixed=True).check_model("c", config(3)))


def test_floors_take_the_place_of_the_models_own_older_ones() -> None:
    floors = build(kept("a", 2, 6))

    asyncio.run(floors.check_model("a", config(2), 7 * GB))


def test_floors_that_did_not_fit_before_hinder_no_change_that_asks_for_no_more() -> None:
    """The pool was started smaller than it was."""
    floors = build(kept("a", 4, 6))

    asyncio.run(floors.check_model("b", config(0), 6 * GB))
    asyncio.run(floors.check_model("a", config(3), 6 * GB))
    with pytest.raises(FloorsTooHighError):
        asyncio.run(floors.check_model("a", config(5), 6 * GB))


def test_floors_that_did_not_fit_before_may_be_lowered_in_part() -> None:
    """They need more workers at another time than min_replicas did at any."""
    floors = build(model_record("a", nbytes=GB, **daily(8, 8, least=3).model_dump()))

    asyncio.run(floors.check_model("a", daily(8, 7, least=1), GB))
    with pytest.raises(FloorsTooHighError):
        asyncio.run(floors.check_model("a", daily(8, 9, least=1), GB))


def test_floors_refuse_a_schedule_that_is_moved_to_where_others_have_theirs() -> None:
    floors = build(
        model_record("a", nbytes=6 * GB, **daily(8, 2).model_dump()),
        model_record("b", nbytes=6 * GB, **daily(17, 2).model_dump()),
    )

    asyncio.run(floors.check_model("b", daily(12, 2), 6 * GB))
    with pytest.raises(FloorsTooHighError, match="together need 4 workers"):
        asyncio.run(floors.check_model("b", daily(8, 2), 6 * GB))


def test_floors_that_did_not_fit_before_hide_no_schedule_that_needs_more() -> None:
    floors = build(kept("a", 3, 1))

    asyncio.run(floors.check_model("b", daily(8, 3), GB))
    with pytest.raises(FloorsTooHighError, match=r"b: from .* keeps 9 replicas"):
        asyncio.run(floors.check_model("b", daily(8, 9), GB))


def test_floors_count_what_the_largest_worker_holds() -> None:
    floors = build(kept("a", 1, 6), kept("b", 1, 6))
    floors._cluster.join(WorkerInfo("w", "n", 1, 1, 12 * GB, 16))

    asyncio.run(floors.check_model("c", config(1), 6 * GB))


def test_floors_refuse_a_smaller_pool_but_no_larger_one() -> None:
    floors = build(kept("a", 2, 6))

    asyncio.run(floors.check_pool(PoolConfig(max_workers=4)))
    with pytest.raises(FloorsTooHighError, match="the pool has 1 worker at most"):
        asyncio.run(floors.check_pool(PoolConfig(max_workers=1)))


@pytest.mark.parametrize("workers", [2, 3])
def test_floors_that_did_not_fit_before_hinder_no_pool_that_is_no_smaller(workers: int) -> None:
    floors = build(kept("a", 4, 6))

    asyncio.run(floors.check_pool(PoolConfig(max_workers=workers, idle_timeout_s=9)))


def test_floors_that_do_not_fit_what_was_started_are_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "pilotlight.scheduler"):
        asyncio.run(build(kept("a", 2, 6)).warn())
        assert not caplog.records
        asyncio.run(build(kept("a", 3, 6)).warn())

    assert "floors_too_high reason=a: min_replicas keeps 3 replicas" in caplog.text
