import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_autoscaler.config import AutoscalingConfig
from pilotlight_autoscaler.desired import desired_replicas, occupied_replicas


@pytest.mark.parametrize(
    ("queued", "ongoing", "desired"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (5, 0, 1), (6, 0, 2), (3, 3, 2), (100, 100, 4)],
)
def test_desired_replicas(queued: int, ongoing: int, desired: int) -> None:
    config = AutoscalingConfig(max_replicas=4, max_ongoing_requests=8)  # target 5.6

    assert desired_replicas(config, queued, ongoing) == desired


def test_desired_replicas_keeps_min_replicas() -> None:
    assert desired_replicas(AutoscalingConfig(min_replicas=2, max_replicas=3), 0, 0) == 2


@pytest.mark.parametrize("target", [5.6, 0.7, 1.1, 2.8])
def test_desired_replicas_full_replicas_want_no_further_one(target: float) -> None:
    """Whole multiples of the target must not round up: 28 / 5.6 is 5.000000000000001."""
    config = AutoscalingConfig(max_replicas=10_000, target_ongoing_requests=target)

    for tens in range(1, 200):
        assert desired_replicas(config, round(target * 10) * tens, 0) == 10 * tens


@pytest.mark.parametrize("target", [5e-324, 1e6])
def test_desired_replicas_extreme_target(target: float) -> None:
    config = AutoscalingConfig(
        max_replicas=3, target_ongoing_requests=target, max_ongoing_requests=10**6
    )

    assert desired_replicas(config, 2, 0) == (3 if target < 1 else 1)


def test_occupied_replicas_leaves_out_the_headroom() -> None:
    config = AutoscalingConfig(max_replicas=4, max_ongoing_requests=8)

    assert occupied_replicas(config, queued=0, ongoing=8) == 1
    assert occupied_replicas(config, queued=0, ongoing=9) == 2
    assert occupied_replicas(config, queued=1, ongoing=8) == desired_replicas(config, 1, 8) == 2


@given(
    queued=st.integers(0, 1000),
    ongoing=st.integers(0, 1000),
    min_replicas=st.integers(0, 5),
    more=st.integers(0, 20),
    max_ongoing=st.integers(1, 64),
)
def test_desired_replicas_bounds_and_monotony(
    queued: int, ongoing: int, min_replicas: int, more: int, max_ongoing: int
) -> None:
    config = AutoscalingConfig(
        min_replicas=min_replicas,
        max_replicas=max(1, min_replicas + more),
        max_ongoing_requests=max_ongoing,
    )
    desired = desired_replicas(config, queued, ongoing)

    assert config.min_replicas <= desired <= config.max_replicas
    assert config.min_replicas <= occupied_replicas(config, queued, ongoing) <= desired
    assert desired_replicas(config, queued + 1, ongoing) >= desired
    assert desired >= 1 or queued + ongoing == 0
