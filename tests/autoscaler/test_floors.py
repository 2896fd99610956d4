"""What is kept by all models together, against the pool."""

from datetime import UTC, datetime

import pytest

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.floors import Keeper, Room, find_shortage

GB = 10**9
MONDAY_S = datetime(2026, 11, 30, tzinfo=UTC).timestamp()


def keeper(name: str, least: int, gb: float = 0, **config: object) -> Keeper:
    settings = {"min_replicas": least, "max_replicas": 9, **config}
    return Keeper(name, AutoscalingConfig.model_validate(settings), int(gb * GB))


def daily(hour: int, hours: float, replicas: int) -> dict[str, object]:
    cron = f"0 {hour} * * *"
    return {"cron": cron, "duration_s": f"{hours:g}h", "min_replicas": replicas}


def quarterly(minute: int) -> dict[str, object]:
    return {"cron": f"{minute}-59/15 * * * *", "duration_s": "5m", "min_replicas": 1}


def text(room: Room, *keepers: Keeper) -> str:
    found = find_shortage(keepers, room, MONDAY_S)
    return "" if found is None else found.text


@pytest.mark.parametrize(
    ("keepers", "room"),
    [
        ((), Room(1, 16 * GB, 16)),
        ((keeper("a", 0, 99),), Room(1, 16 * GB, 16)),  # it keeps nothing
        ((keeper("a", 2, 8), keeper("b", 2, 8)), Room(2, 16 * GB, 16)),  # to the last byte
        ((keeper("a", 4), keeper("b", 4)), Room(4, 0, 2)),
        ((keeper("a", 4), keeper("b", 4)), Room(4)),  # nothing is known of bytes and slots
    ],
)
def test_floors_that_fit_are_told_as_none(keepers: tuple[Keeper, ...], room: Room) -> None:
    assert find_shortage(keepers, room, MONDAY_S) is None


def test_floor_above_the_workers_is_impossible_in_itself() -> None:
    assert text(Room(4, 16 * GB, 16), keeper("a", 5, 1)) == (
        "a: min_replicas keeps 5 replicas, and a worker holds one replica of a model: the pool has "
        "4 workers at most (max_workers); lower min_replicas to 4, or raise max_workers to 5"
    )


def test_floors_are_added_up_in_bytes() -> None:
    found = text(Room(2, 10 * GB, 16), keeper("a", 2, 4), keeper("b", 1, 5), keeper("c", 2, 4))

    assert found == (
        "min_replicas of all models together need 3 workers, the pool has 2 workers at most "
        "(max_workers), each of which holds 16 replicas and 10.0 GB: a 2 x 4.0 GB, c 2 x 4.0 GB, "
        "b 1 x 5.0 GB; lower min_replicas of some, or raise max_workers to 3"
    )


def test_floors_of_more_than_half_a_worker_need_one_each() -> None:
    keepers = [keeper(name, 1, 6) for name in "abc"]

    assert "need 3 workers" in text(Room(2, 10 * GB, 16), *keepers)


def test_floors_are_added_up_in_slots() -> None:
    keepers = [keeper(name, 1, 0.1) for name in "abcdefg"]

    found = text(Room(2, 10 * GB, 3), *keepers)

    assert "need 3 workers" in found
    assert "and 2 more models" in found


def test_scheduled_floors_count_where_they_coincide() -> None:
    day = keeper("day", 0, 8, schedule=[daily(8, 10, 2)])
    late = keeper("late", 0, 8, schedule=[daily(17, 2, 1)])

    found = find_shortage((day, late), Room(2, 10 * GB, 16), MONDAY_S)

    assert found is not None
    assert found.at_s == MONDAY_S + 17 * 3600
    assert found.text.startswith("from 2026-11-30 17:00 UTC the schedule's min_replicas of all")


def test_scheduled_floors_that_take_turns_fit() -> None:
    """One ends in the minute in which the other begins."""
    day = keeper("day", 0, 8, schedule=[daily(8, 10, 2)])
    night = keeper("night", 0, 8, schedule=[daily(18, 14, 2)])

    assert find_shortage((day, night), Room(2, 10 * GB, 16), MONDAY_S) is None


def test_scheduled_floor_that_holds_now_counts() -> None:
    day = keeper("day", 0, 8, schedule=[daily(22, 10, 3)])  # since yesterday

    found = find_shortage((day,), Room(2, 10 * GB, 16), MONDAY_S)

    assert found is not None
    assert "lower the schedule's min_replicas to 2" in found.text
    assert found.at_s == MONDAY_S


def test_scheduled_floor_adds_to_what_others_always_keep() -> None:
    always = keeper("always", 1, 8)
    day = keeper("day", 0, 8, schedule=[daily(8, 10, 2)])

    found = find_shortage((always, day), Room(2, 10 * GB, 16), MONDAY_S)

    assert found is not None
    assert (found.workers, found.at_s) == (3, MONDAY_S + 8 * 3600)


def test_scheduled_floor_that_comes_and_goes_all_the_time_is_taken_as_always_held() -> None:
    often = {"cron": "*/2 * * * *", "duration_s": "1m", "min_replicas": 2}
    odd = {"cron": "1-59/2 * * * *", "duration_s": "1m", "min_replicas": 1}

    found = find_shortage(
        (keeper("a", 0, 8, schedule=[often]), keeper("b", 0, 8, schedule=[odd])),
        Room(2, 10 * GB, 16),
        MONDAY_S,
    )

    assert found is not None
    assert (found.workers, found.at_s) == (3, MONDAY_S)


def test_scheduled_floor_of_every_ten_minutes_is_looked_at_as_it_is() -> None:
    often = {"cron": "*/10 * * * *", "duration_s": "5m", "min_replicas": 1}
    between = {"cron": "5-59/10 * * * *", "duration_s": "5m", "min_replicas": 1}
    keepers = [keeper("a", 0, 8, schedule=[often]), keeper("b", 0, 8, schedule=[between])]

    assert find_shortage(keepers, Room(1, 10 * GB, 16), MONDAY_S) is None


def test_scheduled_floor_late_in_the_week_counts_whatever_changes_before_it() -> None:
    busy = [keeper(f"m{n}", 0, schedule=[quarterly(10)]) for n in range(20)]
    sunday = {"cron": "0 8 * * sun", "duration_s": "1h", "min_replicas": 5}

    found = find_shortage((*busy, keeper("late", 0, schedule=[sunday])), Room(4), MONDAY_S)

    assert found is not None
    assert found.at_s == MONDAY_S + 6 * 86400 + 8 * 3600


def monthly(day: int, replicas: int) -> dict[str, object]:
    return {"cron": f"0 8 {day} * *", "duration_s": "1h", "min_replicas": replicas}


def test_scheduled_floor_beyond_the_week_counts_beside_what_is_always_kept() -> None:
    always = keeper("always", 1, 8)
    later = keeper("later", 0, 8, schedule=[monthly(15, 2)])

    found = find_shortage((always, later), Room(2, 10 * GB, 16), MONDAY_S)

    assert found is not None
    at_s = datetime(2026, 12, 15, 8, tzinfo=UTC).timestamp()
    assert (found.workers, found.at_s) == (3, at_s)


def test_scheduled_floors_beyond_the_week_are_not_taken_to_coincide() -> None:
    first = keeper("first", 0, 8, schedule=[monthly(15, 2)])
    second = keeper("second", 0, 8, schedule=[monthly(16, 2)])

    assert find_shortage((first, second), Room(2, 10 * GB, 16), MONDAY_S) is None


def test_scheduled_floors_that_alternate_within_an_hour_fit() -> None:
    first = keeper("first", 0, 8, schedule=[quarterly(0)])
    second = keeper("second", 0, 8, schedule=[quarterly(7)])

    assert find_shortage((first, second), Room(1, 10 * GB, 16), MONDAY_S) is None
