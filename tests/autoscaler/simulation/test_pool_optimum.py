"""The bound of a scarce pool: right where everything can be tried, and below every policy."""

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.simulated import make_setting, make_trace

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.simulation.comparing import simulate
from pilotlight_autoscaler.simulation.pool_optimum import most_saved, pool_optimum
from pilotlight_autoscaler.simulation.setting import Pool
from pilotlight_autoscaler.simulation.synthetic import Traffic, azure_trace

spans = st.tuples(st.integers(0, 12), st.integers(1, 6), st.integers(1, 20)).map(
    lambda drawn: (float(drawn[0]), float(drawn[0] + drawn[1]), float(drawn[2]))
)


# With two slots, one gap that was kept with one of them has to go again.
TAKEN_BACK = [
    (2.0, 7.0, 11.0),
    (4.0, 5.0, 9.0),
    (7.0, 8.0, 5.0),
    (0.0, 4.0, 10.0),
    (4.0, 9.0, 10.0),
]


@example(gaps=TAKEN_BACK, slots=2)
@given(gaps=st.lists(spans, min_size=1, max_size=8), slots=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_most_saved_is_the_best_of_all_choices(
    gaps: list[tuple[float, float, float]], slots: int
) -> None:
    def fits(kept: list[tuple[float, float, float]]) -> bool:
        return all(sum(a <= at < b for a, b, _ in kept) <= slots for at in range(20))

    best = 0.0
    for choice in product((False, True), repeat=len(gaps)):
        kept = [gap for gap, is_kept in zip(gaps, choice, strict=True) if is_kept]
        if fits(kept):
            best = max(best, sum(saved for _, _, saved in kept))

    assert most_saved(gaps, [], slots) == pytest.approx(best)


def test_most_saved_leaves_busy_slots_alone() -> None:
    gaps = [(0.0, 10.0, 5.0), (2.0, 4.0, 3.0)]

    assert most_saved(gaps, [(4.0, 6.0)], 1) == 3.0
    assert most_saved(gaps, [(4.0, 6.0)], 2) == 8.0


def test_pool_optimum_counts_first_requests_and_what_does_not_fit() -> None:
    """One slot, two models in turns: of the three gaps, the short one can be kept."""
    trace = make_trace([(0.0, "a"), (10.0, "b"), (20.0, "b"), (40.0, "a")], horizon_s=100)

    found = pool_optimum(trace, [4.0, 6.0], slots=1)

    assert (found.nothing_kept_s, found.first_s, found.waited_s) == (20.0, 10.0, 14.0)


@pytest.mark.parametrize("policy", ["lru", "gdsf"])
def test_pool_optimum_is_below_what_policies_reach(policy: str) -> None:
    trace = azure_trace(Traffic(models=12, days=0.25, seed=3, max_daily_requests=500))
    config = AutoscalingConfig(max_ongoing_requests=1000)
    setting = make_setting(trace, pool=Pool(nodes=4), config=config)

    waited_s = simulate(trace, setting, policy).waited_s

    bound = pool_optimum(trace, [4.0] * 12, slots=4)
    assert 0 < bound.waited_s <= waited_s
