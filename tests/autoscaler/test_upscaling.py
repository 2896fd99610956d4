"""When and how far a model with a ready replica grows. A request fills a replica."""

import pytest
from support.one_model import OneModel

from pilotlight_autoscaler import Decision, Phase, PoolConfig, Rule


class Growing(OneModel):
    """On workers of its own; its requests wait, beside one in each ready replica."""

    def __init__(self, ready: int = 1, **config: object) -> None:
        settings = {"max_replicas": 9, "max_ongoing_requests": 1, "idle_timeout_s": 60, **config}
        pool = PoolConfig(min_workers=9, max_workers=9)
        super().__init__(pool, workers=9, cold_start_s=10.0, **settings)
        self.now_s = 1000.0
        for n in range(ready):
            self.ready(f"w{n}")

    def ready(self, worker_id: str) -> None:
        self.put(worker_id, Phase.READY, self.now_s, ongoing=1)

    def queue(self, queued: int) -> None:
        self.autoscaler.update_queue("a", queued, self.now_s if queued else None)

    def decide(self, after_s: float = 0.0) -> Decision:
        self.now_s += after_s
        return self.decide_at(self.now_s)


def test_upscale_delay_holds_another_replica_back() -> None:
    growing = Growing(upscale_delay_s=20)
    growing.queue(3)
    first = growing.decide()

    assert first.attach == ()
    assert growing.decide(19.9).attach == ()
    last = growing.decide(0.1)
    assert [each.worker_id for each in last.attach] == ["w1", "w2", "w3"]
    assert growing.decide().attach == ()


def test_upscale_delay_is_when_it_wants_to_be_asked_again() -> None:
    growing = Growing(upscale_delay_s=2)
    growing.queue(3)
    wake_s = growing.decide().wake_at_s
    for _ in range(100):
        if wake_s is None or wake_s >= 1002:
            break
        wake_s = growing.decide(wake_s - growing.now_s).wake_at_s

    assert wake_s == 1002
    assert len(growing.decide(wake_s - growing.now_s).attach) == 3


# No panic, and means that are soon forgotten.
CALM = {"threshold": 9, "queue_slo_s": 99, "stable_window_s": 10, "window_s": 5}


def test_upscale_delay_counts_anew_when_the_mean_load_asks_for_no_more() -> None:
    growing = Growing(upscale_delay_s=20, panic=CALM)
    growing.queue(1)
    growing.decide()
    growing.now_s += 15
    growing.queue(0)
    wake_s = growing.decide().wake_at_s
    while wake_s is not None and growing.now_s < 1030:
        wake_s = growing.decide(wake_s - growing.now_s).wake_at_s
    growing.queue(1)

    assert growing.decide().attach == ()
    assert growing.decide(19.0).attach == ()
    assert len(growing.decide(1.0).attach) == 1


def test_upscale_delay_goes_on_while_the_load_falls_for_a_moment() -> None:
    growing = Growing(upscale_delay_s=20, panic=CALM)
    growing.queue(1)
    growing.decide()
    growing.now_s += 15
    growing.queue(0)
    growing.decide()
    growing.queue(1)

    assert growing.decide(0.1).attach == ()
    assert len(growing.decide(4.9).attach) == 1


def test_upscale_delay_goes_on_while_the_long_mean_asks_for_more() -> None:
    growing = Growing(upscale_delay_s=20, panic=CALM)
    growing.queue(2)
    growing.decide()
    growing.now_s += 9
    growing.queue(0)
    for _ in range(6):
        growing.decide(1)
    growing.queue(1)

    assert growing.decide(0.1).attach == ()
    assert len(growing.decide(4.9).attach) == 1


def long_calm(delay_s: float) -> Growing:
    """Its short mean asks for more since a moment ago: a replica is meant for 5.6 requests, and the
    long mean is still that of one. Nobody waits any more.
    """
    calm = {"threshold": 9, "queue_slo_s": 99}
    growing = Growing(upscale_delay_s=delay_s, max_ongoing_requests=8, panic=calm)
    growing.decide()
    growing.now_s += 50
    growing.autoscaler.update_load("w0", "a-1", 8, None)
    growing.queue(3)
    growing.decide()
    growing.decide(6)
    growing.queue(0)
    for _ in range(9):
        growing.decide(1)
    return growing


def test_upscale_delay_goes_on_while_the_short_mean_asks_for_more() -> None:
    growing = long_calm(20)
    growing.queue(3)

    assert growing.decide(0.1).attach == ()
    assert len(growing.decide(4.9).attach) == 1


def test_upscale_delay_also_holds_a_panic_back() -> None:
    growing = Growing(upscale_delay_s=100)
    growing.queue(5)
    growing.decide()

    assert growing.decide(50).attach == ()
    assert growing.decide(50).attach[0].reason.rule in (Rule.PANIC, Rule.QUEUE)


def test_upscale_delay_outlasts_a_panic_whose_load_has_gone() -> None:
    growing = Growing(upscale_delay_s=20, max_ongoing_requests=8)
    growing.decide()
    growing.now_s += 50
    growing.queue(40)
    growing.decide()
    growing.decide(2)
    growing.queue(0)

    assert [growing.decide(1).attach for _ in range(70)] == [()] * 70


def test_upscale_delay_delays_nothing_from_zero() -> None:
    """Nor while the first ones are on their way: nobody is served yet."""
    growing = Growing(ready=0, upscale_delay_s=100)
    growing.queue(2)
    assert len(growing.decide().attach) == 2

    growing.queue(3)
    assert len(growing.decide().attach) == 1


@pytest.mark.parametrize("config", [{"upscale_delay_s": 100}, {"upscaling_factor": 0.1}])
def test_upscaling_delays_nothing_of_a_burst_from_zero(config: dict[str, float]) -> None:
    """Room for the rest comes when the first one is ready."""
    growing = Growing(ready=0, panic={"threshold": 9, "queue_slo_s": 99}, **config)
    for n in range(1, 9):
        growing.autoscaler.remove_worker(f"w{n}")
    growing.queue(3)
    assert len(growing.decide().attach) == 1
    growing.ready("w0")
    growing.queue(2)
    growing.decide(1)
    for n in range(1, 9):
        growing.join(n)

    assert len(growing.decide(1).attach) == 2
    growing.queue(6)
    assert growing.decide().attach == ()


def test_upscale_delay_delays_what_a_burst_from_zero_has_ceased_to_ask_for() -> None:
    growing = Growing(ready=0, upscale_delay_s=100, panic=CALM)
    for n in range(1, 9):
        growing.autoscaler.remove_worker(f"w{n}")
    growing.queue(3)
    growing.decide()
    growing.ready("w0")
    growing.queue(0)
    growing.decide(30)
    for n in range(1, 9):
        growing.join(n)
    growing.queue(2)

    assert growing.decide(30).attach == ()


def test_upscale_delay_does_not_delay_the_place_of_a_lost_replica() -> None:
    growing = Growing(ready=3, upscale_delay_s=100)
    growing.decide()
    growing.autoscaler.remove_replica("w2", "a-1")
    growing.queue(1)

    assert len(growing.decide(1).attach) == 1


def test_upscale_delay_does_not_delay_a_floor() -> None:
    growing = Growing(upscale_delay_s=100)
    growing.queue(5)
    growing.decide()
    growing.configure(min_replicas=3)
    growing.queue(5)
    decision = growing.decide()

    assert len(decision.attach) == 2
    assert decision.attach[0].reason.rule is Rule.FLOOR
    assert len(growing.decide(100).attach) == 3


def test_upscale_delay_that_is_taken_back_ends_at_once() -> None:
    growing = Growing(upscale_delay_s=100)
    growing.queue(1)
    growing.decide()
    growing.configure(upscale_delay_s=0)
    growing.queue(1)

    assert len(growing.decide().attach) == 1


def test_upscale_delay_begins_anew_where_only_one_replica_was_allowed_meanwhile() -> None:
    growing = Growing(upscale_delay_s=20)
    growing.queue(3)
    growing.decide()
    growing.configure(max_replicas=1)
    growing.decide(1)
    growing.configure(max_replicas=9)
    growing.queue(3)

    assert growing.decide(60).attach == ()
    assert len(growing.decide(20).attach) == 3


def test_upscale_delay_delays_what_was_granted_before_only_one_replica_was_allowed() -> None:
    growing = Growing(ready=3, upscale_delay_s=20)
    growing.decide()
    growing.configure(max_replicas=1)
    for n in (1, 2):
        growing.autoscaler.remove_replica(f"w{n}", "a-1")
    growing.decide(60)
    growing.configure(max_replicas=9)
    growing.queue(2)

    assert growing.decide(60).attach == ()


def test_upscale_delay_begins_anew_where_it_was_taken_back_meanwhile() -> None:
    growing = Growing(upscale_delay_s=20)
    growing.decide()
    growing.now_s += 50
    growing.queue(1)
    growing.decide()
    growing.configure(upscale_delay_s=0)
    growing.decide()
    growing.configure(upscale_delay_s=20)
    growing.queue(1)

    assert growing.decide(30).attach == ()


def test_upscale_delay_that_is_over_is_not_taken_for_a_step_under_way() -> None:
    growing = long_calm(8)
    told = growing.autoscaler.explain("a", growing.now_s)

    assert "would start one more at a 60 s mean above 5.6" in told.text


def test_upscale_delay_is_explained() -> None:
    growing = Growing(upscale_delay_s=20)
    growing.queue(3)
    growing.decide(5)
    told = growing.autoscaler.explain("a", growing.now_s + 5)

    assert told.rule is Rule.HOLDS
    assert "has 1; would start more in 15.0 s, upscale_delay_s is 20" in told.text


def test_upscale_delay_goes_on_where_it_was_restored() -> None:
    growing = Growing(upscale_delay_s=20)
    growing.queue(3)
    growing.decide()
    state = growing.autoscaler.state()
    again = Growing(upscale_delay_s=20)
    again.autoscaler.restore(state)
    again.queue(3)

    assert len(again.decide(20).attach) == 3


@pytest.mark.parametrize(("factor", "started"), [(0.1, 1), (0.5, 2), (1, 4), (1.5, 6), (100, 8)])
def test_upscaling_factor_scales_the_step(factor: float, started: int) -> None:
    """One is ready, five are asked for, nine are allowed."""
    growing = Growing(upscaling_factor=factor)
    growing.queue(4)

    assert len(growing.decide().attach) == started
    assert growing.decide().attach == ()


def test_upscaling_factor_goes_on_asking_for_what_found_no_room() -> None:
    growing = Growing(upscaling_factor=4, max_replicas=3)
    for n in range(2, 9):
        growing.autoscaler.remove_worker(f"w{n}")
    growing.queue(1)
    assert len(growing.decide().attach) == 1

    assert [each.model for each in growing.decide().unplaced] == ["a"]


def test_upscaling_factor_goes_on_when_the_step_is_ready() -> None:
    growing = Growing(upscaling_factor=0.5)
    growing.queue(4)
    growing.decide()
    growing.decide(1)
    told = growing.autoscaler.explain("a", growing.now_s)
    assert "when those 2 on their way are ready, upscaling_factor is 0.5" in told.text

    for worker_id in ("w1", "w2"):
        growing.ready(worker_id)
    growing.queue(2)
    assert len(growing.decide(10).attach) == 1


def test_upscaling_factor_does_not_slow_a_floor() -> None:
    growing = Growing(upscaling_factor=0.1, min_replicas=4)
    growing.queue(5)

    assert len(growing.decide().attach) == 3


def test_upscaling_factor_is_none_from_zero() -> None:
    growing = Growing(ready=0, upscaling_factor=3)
    growing.queue(2)

    assert len(growing.decide().attach) == 2
