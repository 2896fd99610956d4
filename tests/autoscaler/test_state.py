"""What the autoscaler saves: it is read again as it was, or refused by the place of the damage."""

import json
import math
from bisect import bisect_right

import pytest
from support.small_cluster import Cluster, a_model, rhythm

from pilotlight_autoscaler import PolicyState, StateError, Tier
from pilotlight_autoscaler.gaps import BINS, EDGES_S, HORIZON_S, bin_of


def test_autoscaler_state_survives_json() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 100.0, 10)
    state = cluster.autoscaler.state()

    assert PolicyState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"version": 3}, "version"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"73": 1}}}}}, r"models\.a\.gaps"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"x": 1}}}}}, r"models\.a\.gaps"),
        ({"version": 1, "models": {"a": {"gaps": {"counts": {"²": 1}}}}}, r"models\.a\.gaps"),
        (
            {"version": 1, "models": {"a": {"gaps": {"counts": {"9" * 5000: 1}}}}},
            r"models\.a\.gaps",
        ),
        ({"version": 1, "models": {"a": []}}, r"models\.a"),
        ({"models": {"a": {"burst": {"k": math.nan}}}}, r"models\.a\.burst\.k"),
        ({"models": {"a": {"gaps": {"counts": {"199": 1.0}}}}}, r"models\.a\.gaps\.counts"),
        ({"models": {"a": {"colour": 1}}}, r"models\.a\.colour"),
        ([], "all of it"),
    ],
)
def test_state_damage_is_refused_by_its_place(values: object, place: str) -> None:
    with pytest.raises(StateError, match=f"saved autoscaler state: {place}"):
        PolicyState.from_json(values)


def test_state_of_version_1_is_read_with_its_gaps_in_bins_half_as_wide() -> None:
    old_edges_s = (0.0, *(HORIZON_S ** (n / 71) for n in range(72)))
    gap_s = 600.0
    old_bin = bisect_right(old_edges_s, gap_s) - 1
    counts = {"0": 3.0, str(old_bin): 8.0, "72": 1.0}
    gaps = {"observed": 12, "unit": 1.0, "counts": counts}
    model = {"gaps": gaps, "cold_starts": {"samples": {"disk": [2.0]}, "latest": "disk"}}
    state = PolicyState.from_json({"version": 1, "decided_s": 7.0, "models": {"a": model}})
    read = state.models["a"]

    assert (state.version, state.decided_s, read.gaps.observed) == (2, 7.0, 12)
    assert read.cold_starts.samples == {Tier.DISK: [2.0]}
    assert sum(read.gaps.counts.values()) == 12.0
    halves = {n: count for n, count in read.gaps.counts.items() if 0 < n < BINS}
    assert set(halves.values()) == {4.0}
    assert bin_of(gap_s) in halves
    assert EDGES_S[min(halves)] == pytest.approx(old_edges_s[old_bin])
    assert EDGES_S[max(halves) + 1] == pytest.approx(old_edges_s[old_bin + 1])
    assert (read.gaps.counts[0], read.gaps.counts[BINS]) == (3.0, 1.0)
