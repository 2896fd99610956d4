"""Times that cannot be, and clocks that go back."""

import math

import pytest
from support.snapshots import NOW_S, decide_on, model, replica, worker

from pilotlight_autoscaler import Autoscaler, ClockError, InputError


@pytest.mark.parametrize("now_s", [math.nan, math.inf, -math.inf, -1.0])
def test_now_must_be_a_time(now_s: float) -> None:
    with pytest.raises(InputError, match="now_s must be a finite number"):
        decide_on([], [], now_s)


def test_clock_that_went_back_makes_nothing_old() -> None:
    future = worker("w", replica("b", 8, idle_s=-5))
    models = [
        model("a", 8, queued=1, oldest_queued_since_s=NOW_S + 9, cold_start_s=60),
        model("b", 8),
    ]
    decision = decide_on(models, [future])

    assert (decision.attach, decision.detach) == ((), ())
    assert decision.wake_at_s == NOW_S + 6


def test_autoscaler_refuses_a_clock_that_steps_back() -> None:
    autoscaler = Autoscaler()
    autoscaler.decide(10.0)

    with pytest.raises(ClockError, match=r"went back from 10\.0 to 9\.0"):
        autoscaler.decide(9.0)
