"""Floors: when they hold, and what is no cron expression."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from pilotlight_autoscaler import AutoscalingConfig, ClusterFile, PoolConfig
from pilotlight_autoscaler.schedule import Floor

LONDON = ZoneInfo("Europe/London")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=LONDON).timestamp()


def test_floor_holds_from_its_start_for_its_duration() -> None:
    floor = Floor(
        cron="0 8 * * mon-fri", duration_s="10h", min_replicas=1, timezone="Europe/London"
    )

    assert not floor.covers(at("2026-06-01 07:59"))  # a Monday, in summer time
    assert floor.covers(at("2026-06-01 08:00"))
    assert floor.covers(at("2026-06-01 17:59"))
    assert not floor.covers(at("2026-06-01 18:00"))
    assert not floor.covers(at("2026-06-06 09:00"))
    assert floor.next_change_s(at("2026-06-05 19:00")) == at("2026-06-08 08:00")
    assert floor.next_change_s(at("2026-06-01 09:00")) == at("2026-06-01 18:00")


def test_floor_starts_once_in_an_hour_that_comes_twice() -> None:
    floor = Floor(cron="30 1 * * *", duration_s="10m", min_replicas=1, timezone="Europe/London")
    # 2026-10-25: at 02:00 summer time it is 01:00 again.
    second = datetime(2026, 10, 25, 1, 15, tzinfo=LONDON, fold=1).timestamp()

    assert not floor.covers(second)
    assert floor.next_change_s(second) == at("2026-10-26 01:30")


def test_floor_starts_in_the_hour_after_one_that_is_skipped() -> None:
    floor = Floor(cron="30 1 * * *", duration_s="10m", min_replicas=1, timezone="Europe/London")
    # 2026-03-29: at 01:00 it is 02:00 summer time.
    before = at("2026-03-29 00:59")

    assert floor.next_change_s(before) == at("2026-03-29 02:30") == before + 31 * 60
    assert floor.covers(at("2026-03-29 02:39"))
    assert not floor.covers(at("2026-03-29 02:40"))


def test_floor_across_a_changed_clock_lasts_as_long_as_it_says() -> None:
    floor = Floor(cron="0 22 * * *", duration_s="8h", min_replicas=1, timezone="Europe/London")
    began = at("2026-10-24 22:00")  # and at 02:00 it is 01:00 again

    assert floor.next_change_s(began) == began + 8 * 3600 == at("2026-10-25 05:00")


@pytest.mark.parametrize("day", ["2026-03-28 23:10", "2026-03-29 00:30", "2026-10-24 21:10"])
@pytest.mark.parametrize("cron", ["30 1 * * *", "0 1-2 * * *", "*/20 0-3 * * sun", "0 22 * * *"])
@pytest.mark.parametrize("duration_s", [600, 1200, 4 * 3600])
def test_floor_spans_are_where_it_covers(day: str, cron: str, duration_s: float) -> None:
    """Also where the clock is changed."""
    floor = Floor(cron=cron, duration_s=duration_s, min_replicas=1, timezone="Europe/London")
    spans = floor.spans(at(day), at(day) + 86400, 999)

    assert spans is not None
    for now_s in range(int(at(day)), int(at(day)) + 86400, 300):
        held = any(begin_s <= now_s < end_s for begin_s, end_s in spans)
        assert held == floor.covers(now_s)


@pytest.mark.parametrize(
    "cron", ["0 8 * *", "60 8 * * *", "0 8 * * funday", "a b c d e", "0 9-8 * * *"]
)
def test_floor_refuses_what_is_no_cron(cron: str) -> None:
    with pytest.raises(ValidationError, match="cron"):
        Floor(cron=cron, duration_s=60, min_replicas=1)


def test_floor_refuses_an_unknown_time_zone() -> None:
    with pytest.raises(ValidationError, match="is no time zone"):
        Floor(cron="0 8 * * *", duration_s=60, min_replicas=1, timezone="Mars/Base")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"idle_timeout_s": 60, "keep_alive": {"min_s": 5}}, "leave one of them out"),
        ({"min_replicas": 1, "prewarm": {"enabled": False}}, "prewarm has no effect"),
        ({"keep_alive": {"min_s": 9, "max_s": 8}}, r"min_s \(9\) is above max_s \(8\)"),
        ({"panic": {"window_s": 60}}, "must be below"),
        ({"panic": {"threshold": 1}}, "threshold"),
        (
            {"schedule": [{"cron": "0 8 * * *", "duration_s": 60, "min_replicas": 2}]},
            r"above max_replicas \(1\)",
        ),
    ],
)
def test_config_rules_across_fields(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AutoscalingConfig.model_validate(values)


def test_config_auto_survives_being_stored() -> None:
    config = AutoscalingConfig()
    stored = config.model_dump_json()

    assert '"idle_timeout_s":"auto"' in stored
    assert AutoscalingConfig.model_validate_json(stored).idle_timeout_s is None


@pytest.mark.parametrize("values", [{"idle_timeout_s": 30}, {"min_replicas": 1}])
def test_config_that_was_stored_is_read_again(values: dict[str, object]) -> None:
    config = AutoscalingConfig.model_validate(values)

    assert AutoscalingConfig.model_validate_json(config.model_dump_json()) == config


def test_pool_bounds_are_checked_together() -> None:
    with pytest.raises(ValidationError, match=r"min_workers \(3\) is above max_workers \(2\)"):
        PoolConfig(min_workers=3, max_workers=2)
    with pytest.raises(ValidationError, match="Extra inputs"):
        ClusterFile.model_validate({"version": 1, "pool": {"worker": 3}})
