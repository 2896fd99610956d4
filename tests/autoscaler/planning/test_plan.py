"""The cheapest settings that keep an SLO, or that there are none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_autoscaler import AutoscalingConfig, PoolConfig, Tier
from pilotlight_autoscaler.gaps import GapHistogram
from pilotlight_autoscaler.planning.forecast import forecast, warm_forecast
from pilotlight_autoscaler.planning.keep_for import keep_for
from pilotlight_autoscaler.planning.knowledge import Knowledge, Weights
from pilotlight_autoscaler.planning.options import LEAVE_OUT, Situation, Variant
from pilotlight_autoscaler.planning.plan import Plan, make_plan

GB = 10**9
DAY_S = 86400.0
FIXED = PoolConfig(min_workers=2, max_workers=2, buffer_workers=0)
LINKS = Knowledge(bytes_per_s={Tier.HOST: 20e9, Tier.DISK: 1e9, Tier.REMOTE: 1e8})


def variants(nbytes: int = GB) -> tuple[Variant, ...]:
    """As it is, and in the bytes that 8 and 4 bits take of 16."""
    return (
        Variant("none", Weights(nbytes, nbytes, nbytes, 20)),
        Variant("int8", Weights(nbytes * 52 // 100, nbytes, nbytes, 20), 1),
        Variant("int4", Weights(nbytes * 27 // 100, nbytes, nbytes, 20), 2),
    )


def situation(pool: PoolConfig = FIXED, **config: object) -> Situation:
    return Situation(AutoscalingConfig.model_validate(config), pool, worker_bytes=10 * GB)


def plan(p95_s: float, pool: PoolConfig = FIXED, nbytes: int = GB, **config: object) -> Plan:
    there = situation(pool, cold_start_slo={"p95": p95_s}, **config)
    return make_plan(variants(nbytes), there, LINKS, remote=False)


def test_plan_takes_the_disk_where_that_is_enough() -> None:
    found = plan(5.0)

    assert found.meets is True
    assert (found.cheapest.kept, found.cheapest.changes) == ("nothing", {})
    assert found.cheapest.cost.worker_seconds_per_day == 0


def test_plan_does_not_promise_what_only_the_page_cache_keeps() -> None:
    found = plan(0.2)
    cached = next(each for each in found.options if each.kept == "page cache")

    assert (found.meets, found.meets_while_cached) == (False, True)
    assert (cached.meets, cached.meets_cached) == (False, True)
    assert (cached.forecast.tier, cached.uncached.tier) == (Tier.HOST, Tier.DISK)


def test_plan_locks_pages_before_it_keeps_a_replica() -> None:
    found = plan(0.2)

    assert (found.cheapest.kept, found.cheapest.changes) == (
        "arena",
        {"PILOTLIGHT_ARENA_BYTES": GB},
    )
    assert found.cheapest.cost.locked_bytes == GB


def test_plan_counts_on_an_arena_that_is_there() -> None:
    there = replace(situation(cold_start_slo={"p95": 0.2}), arena_bytes=GB)

    assert make_plan(variants(), there, LINKS, remote=False).meets is True


def test_plan_asks_for_the_most_bits_that_will_do_before_it_keeps_a_replica() -> None:
    scarce = replace(situation(cold_start_slo={"p95": 1.0}), memory_bytes=GB // 8)
    found = make_plan(variants(), scarce, LINKS, remote=False)

    assert found.meets is False
    assert (found.cheapest.kept, found.cheapest.changes) == ("nothing", {"quantization": "int8"})


def test_plan_keeps_a_replica_where_no_start_is_fast_enough() -> None:
    warm = warm_forecast(variants()[0].weights, LINKS)
    found = plan(warm.seconds.p95 + 1e-6)

    assert (found.cheapest.kept, found.cheapest.changes) == (
        "replica",
        {"autoscaling.min_replicas": 1},
    )
    assert found.cheapest.cost.worker_seconds_per_day == pytest.approx(DAY_S / 10)
    assert found.cheapest.cold_share == 0


def test_plan_that_nothing_meets_names_the_span_in_the_way() -> None:
    found = plan(0.01, nbytes=5 * GB)

    assert (found.cheapest, found.meets) == (None, False)
    assert (found.floor.name, found.floor.tier, found.floor.nbytes) == (
        "prefill",
        Tier.HOST,
        5 * GB,
    )


def test_plan_for_a_model_that_no_worker_holds_has_no_option() -> None:
    found = plan(10.0, nbytes=100 * GB)

    assert found.options == ()
    assert (found.cheapest, found.floor) == (None, None)


def test_plan_for_an_empty_pool_keeps_a_worker() -> None:
    found = plan(0.5, PoolConfig(min_workers=0, max_workers=4, buffer_workers=0))

    assert found.meets is False
    assert found.starts_worker.longest.name == "start_worker"
    assert found.cheapest.changes == {"autoscaling.min_replicas": 1}  # a tenth of a worker
    workers = next(o for o in found.options if "pool.min_workers" in o.changes and o.meets)
    kept = {"pool.min_workers": 1, "pool.buffer_workers": 1}
    assert workers.changes == {**kept, "PILOTLIGHT_ARENA_BYTES": GB}
    assert workers.cost.worker_seconds_per_day == DAY_S


def test_plan_for_a_pool_with_a_spare_worker_starts_none() -> None:
    found = plan(0.5, PoolConfig(min_workers=1, max_workers=4, buffer_workers=1))

    assert found.starts_worker is None
    assert found.meets_while_cached is True


def test_plan_gives_a_needless_replica_up() -> None:
    found = plan(5.0, min_replicas=1)

    assert found.cheapest.changes == {"autoscaling.min_replicas": 0}
    assert found.meets is True  # as it is, only not as cheap


def test_plan_names_what_would_be_refused_beside_a_change() -> None:
    warm_s = warm_forecast(variants()[0].weights, LINKS).seconds.p95
    found = plan(warm_s + 1e-6, keep_alive={"min_s": 60}, prewarm={"enabled": False})
    changed = {"min_replicas": 1}

    assert found.cheapest.changes == {
        "autoscaling.min_replicas": 1,
        "autoscaling.keep_alive": LEAVE_OUT,
        "autoscaling.prewarm": LEAVE_OUT,
    }
    AutoscalingConfig.model_validate(changed)
    with pytest.raises(ValueError, match="no effect"):
        AutoscalingConfig.model_validate({**changed, "keep_alive": {"min_s": 60}})


def test_plan_without_an_slo_has_options_and_no_verdict() -> None:
    found = make_plan(variants(), situation(), LINKS, remote=False)

    assert (found.meets, found.cheapest) == (None, None)
    assert {option.meets for option in found.options} == {None}


def test_plan_of_a_remote_source_tells_that_tier_too() -> None:
    tiers = [make_plan(variants(), situation(), LINKS, remote=r).tiers for r in (False, True)]

    assert [[found.tier for found in each] for each in tiers] == [
        [Tier.HOST, Tier.DISK],
        [Tier.HOST, Tier.DISK, Tier.REMOTE],
    ]


def test_plan_makes_cold_starts_rarer_with_a_longer_keep_alive() -> None:
    gaps = GapHistogram()
    for gap_s in [100.0] * 95 + [10_000.0] * 5:
        gaps.add(gap_s)
    there = replace(situation(cold_start_slo={"p95": 0.001}), keep_for=keep_for(gaps, 0.2))
    found = make_plan(variants(), there, LINKS, remote=False)
    idle = next(option for option in found.options if option.kept == "idle replica")

    assert 100 <= idle.changes["autoscaling.idle_timeout_s"] < 130  # the bin's upper edge
    assert 0 < idle.cold_share <= 0.2
    assert 0 < idle.cost.worker_seconds_per_day < DAY_S / 10
    assert idle.meets is False  # those that are left are as slow as ever


def test_keep_for_needs_pauses_to_go_by() -> None:
    gaps = GapHistogram()
    for _ in range(7):
        gaps.add(60.0)
    assert keep_for(gaps) is None
    gaps.add(60.0)
    assert keep_for(gaps).cold_share == 0


def test_keep_for_cannot_outlast_days() -> None:
    gaps = GapHistogram()
    for _ in range(20):
        gaps.add(3 * DAY_S)

    assert keep_for(gaps) is None


@given(
    p95_s=st.floats(0.001, 20.0),
    nbytes=st.integers(10**6, 20 * GB),
    min_workers=st.integers(0, 2),
    buffer_workers=st.integers(0, 2),
    memory_bytes=st.integers(0, 20 * GB),
    arena_bytes=st.integers(0, 20 * GB),
    min_replicas=st.integers(0, 1),
)
def test_plan_cheapest_is_cheapest(
    p95_s: float,
    nbytes: int,
    min_workers: int,
    buffer_workers: int,
    memory_bytes: int,
    arena_bytes: int,
    min_replicas: int,
) -> None:
    pool = PoolConfig(min_workers=min_workers, max_workers=2, buffer_workers=buffer_workers)
    there = replace(
        situation(pool, cold_start_slo={"p95": p95_s}, min_replicas=min_replicas),
        memory_bytes=memory_bytes,
        arena_bytes=arena_bytes,
    )
    found = make_plan(variants(nbytes), there, LINKS, remote=False)
    promised = [(option, option.uncached or option.forecast) for option in found.options]
    meeting = [option for option, each in promised if each.seconds.p95 <= p95_s]

    assert (found.cheapest is None) == (not meeting)
    assert all(found.cheapest.cost <= option.cost for option in meeting)
    # Not only of what the plan lists: a start that is fast enough and costs nothing is taken.
    free = forecast(variants(nbytes)[0].weights, Tier.DISK, LINKS)
    if free.seconds.p95 <= p95_s and found.starts_worker is None and nbytes <= 10 * GB:
        assert found.cheapest.cost.worker_seconds_per_day == 0
        assert found.cheapest.kept == "nothing"


@given(st.floats(0.001, 20.0), st.floats(0.001, 20.0))
def test_plan_of_a_laxer_slo_costs_no_more(one: float, other: float) -> None:
    strict, lax = (plan(p95_s).cheapest for p95_s in sorted((one, other)))

    if strict is not None:
        assert lax is not None
        assert lax.cost <= strict.cost
