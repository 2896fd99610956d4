"""What cold starts have taken: the newest for forecasts, many for the guard."""

from dataclasses import replace

import pytest
from support.small_cluster import a_model
from support.snapshots import GB

from pilotlight_autoscaler import Autoscaler
from pilotlight_autoscaler.cold_starts import HALF_LIFE_STARTS, SAMPLES, ColdStarts
from pilotlight_autoscaler.snapshot import Tier


def measured(*seconds: float) -> ColdStarts:
    starts = ColdStarts()
    for each in seconds:
        starts.add(Tier.DISK, each)
    return starts


def test_cold_starts_mean_of_few_is_plain() -> None:
    assert measured(1.0, 2.0, 6.0).mean_s() == pytest.approx(3.0, rel=0.02)


def test_cold_starts_mean_remembers_more_than_the_quantiles() -> None:
    starts = measured(*[4.0] * 300, *[8.0] * SAMPLES)

    assert starts.typical_s() == 8.0
    assert 4.5 < (starts.mean_s() or 0) < 5.5


def test_cold_starts_mean_forgets_half_in_a_half_life() -> None:
    starts = measured(*[4.0] * 2000, *[8.0] * HALF_LIFE_STARTS)

    assert starts.mean_s() == pytest.approx(6.0, rel=1e-3)


def test_cold_starts_mean_is_of_the_tier_of_the_latest() -> None:
    starts = measured(4.0)
    starts.add(Tier.HOST, 1.0)

    assert starts.mean_s() == 1.0


def test_cold_starts_survive_being_saved() -> None:
    starts = measured(*[4.0] * 50, 8.0)

    again = ColdStarts.load(starts.dump(), starts.latest, starts.dump_means())

    assert again.mean_s() == starts.mean_s()
    assert again.typical_s() == starts.typical_s()


def test_cold_starts_saved_without_means_have_those_of_their_samples() -> None:
    assert ColdStarts.load({Tier.DISK: [1.0, 3.0]}, Tier.DISK, {}).mean_s() == 2.0


def test_cold_starts_of_other_bytes_are_scaled_and_soon_outvoted() -> None:
    starts = measured(*[4.0] * SAMPLES)
    starts.become(1000)
    same = starts.typical_s()
    starts.become(3000)
    scaled = (starts.typical_s(), starts.mean_s())
    starts.add(Tier.DISK, 9.0)
    starts.add(Tier.DISK, 9.0)

    assert same == 4.0
    assert scaled == (12.0, 12.0)
    assert starts.typical_s() == 9.0


def test_cold_starts_know_their_bytes_when_they_are_saved() -> None:
    starts = measured(4.0)
    starts.become(1000)
    again = ColdStarts.load(starts.dump(), starts.latest, starts.dump_means(), starts.nbytes)
    again.become(500)

    assert again.typical_s() == 2.0


def test_new_revision_with_other_bytes_does_not_go_by_the_old_ones_cold_starts() -> None:
    old, new = a_model("a"), replace(a_model("a"), revision_id="a-2", nbytes=4 * GB)
    autoscaler = Autoscaler()
    autoscaler.update_model(old)
    for _ in range(10):
        autoscaler.cold_started("a", Tier.DISK, 2.0)
    saved = autoscaler.state()
    autoscaler.update_model(replace(old, revision_id="a-2"))
    alike_s = autoscaler.view("a").cold_start_s
    autoscaler.update_model(new)
    restarted = Autoscaler()  # the new revision went live meanwhile
    restarted.restore(saved)
    restarted.update_model(new)
    scaled_s = 2.0 * new.nbytes / old.nbytes

    assert alike_s == 2.0
    assert autoscaler.view("a").cold_start_s == restarted.view("a").cold_start_s == scaled_s
    assert scaled_s != 2.0
