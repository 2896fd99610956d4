"""The account that sends a model back to the break-even, and the costs it is made of."""

import pytest

from pilotlight_autoscaler.guard import Guard, fallback_s, gap_cost_s
from pilotlight_autoscaler.keep_alive import Prewarm, Windows

L, W, K = 8.0, 30.0, 1.0  # a cold start costs 248 worker-seconds
LATE = Windows(10.0, (Prewarm(100.0, 150.0),))


def close(guard: Guard, windows: Windows, gap_s: float, times: int = 1) -> None:
    for _ in range(times):
        guard.closed(windows, gap_s, L, W, K)


def test_fallback_less_than_twice_the_clairvoyant_on_every_gap() -> None:
    keep_s = fallback_s(L, W, K)
    for gap_s in (0.0, 1.0, keep_s, keep_s + 0.001, 1e6):
        paid_s = gap_s if gap_s <= keep_s else keep_s + L * (1 + W * K)
        # A cold start's load lengthens the gap that the clairvoyant sees.
        whole_s = gap_s if gap_s <= keep_s else gap_s + L
        assert paid_s < 2 * min(whole_s, L * (1 + W * K)) or gap_s == 0


@pytest.mark.parametrize(
    ("gap_s", "cost_s"),
    [
        (5.0, 5.0),  # still there
        (50.0, 10.0 + 248.0),  # gone, and not yet forecast
        (120.0, 10.0 + 20.0),  # ready in time
        (104.0, 10.0 + 4.0 + 4.0 * 31),  # half of the load is still ahead
        (200.0, 10.0 + 50.0 + 248.0),  # the forecast came for nothing
    ],
)
def test_gap_cost_counts_idling_loading_and_waiting(gap_s: float, cost_s: float) -> None:
    assert gap_cost_s(LATE, gap_s, L, W, K) == pytest.approx(cost_s)


def test_guard_reigns_after_forecasts_that_lose() -> None:
    guard = Guard()
    close(guard, LATE, 50.0)  # 258 instead of 50

    assert guard.active


def test_guard_stays_away_while_forecasts_win() -> None:
    guard = Guard()
    close(guard, LATE, 120.0, times=50)

    assert not guard.active


def test_guard_forgets_in_time() -> None:
    guard = Guard()
    close(guard, LATE, 50.0)
    close(guard, Windows(240.0), 50.0, times=300)

    assert not guard.active


def test_guard_does_not_save_up_for_later_losses() -> None:
    guard = Guard()
    close(guard, LATE, 120.0, times=1000)
    close(guard, LATE, 50.0, times=2)

    assert guard.active
