"""Replicas that are started before they are asked for, because a model's gaps foretell it."""

from support.small_cluster import Cluster, a_model, rhythm

from pilotlight_autoscaler import Tier


def test_autoscaler_prewarms_a_steady_rhythm_after_eight_gaps() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)

    assert rhythm(cluster, "a", 600.0, 8) == []
    ages_s = rhythm(cluster, "a", 600.0, 4)
    assert len(ages_s) >= 3
    assert all(450 < age_s < 600 for age_s in ages_s)


def test_autoscaler_stops_prewarming_when_forecasts_fail() -> None:
    cluster = Cluster([a_model("a")], workers=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 600.0, 12)
    view = cluster.autoscaler._mirror.models["a"]
    for _ in range(12):
        view.learned.forecast(hit=False)

    assert rhythm(cluster, "a", 600.0, 1) == []
    assert "at a hit rate of 0.3, saw" in cluster.autoscaler.explain("a", cluster.now_s).text


def test_forecast_that_finds_no_room_is_not_reported_as_unplaced() -> None:
    """Nobody waits for it, and it is tried again."""
    cluster = Cluster([a_model("a"), a_model("b")], workers=1, gb=1)
    cluster.autoscaler.cold_started("a", Tier.DISK, 5.0)
    rhythm(cluster, "a", 600.0, 10)
    cluster.load("a", 1)
    cluster.decide()
    cluster.load("a", 0)
    ends_s = cluster.now_s + 600
    seen = []
    while True:
        decision = cluster.decide()
        cluster.apply(decision)
        if not cluster.replicas("a") and not cluster.replicas("b"):
            cluster.load("b", 1)
            cluster.apply(cluster.decide())
            cluster.load("b", 1)
            decision = cluster.decide()
        seen.append((cluster.autoscaler.view("a").learned.prewarm_retry_s, decision.unplaced))
        if decision.wake_at_s is None or decision.wake_at_s >= ends_s:
            break
        cluster.now_s = decision.wake_at_s

    assert max(retry_s for retry_s, _ in seen) > 0
    assert all(unplaced == () for _, unplaced in seen)
