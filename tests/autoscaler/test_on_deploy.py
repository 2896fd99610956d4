"""`prewarm.on_deploy`: a replica that nobody has asked for, once per revision."""

from dataclasses import replace

import pytest
from support.one_model import OneModel
from support.snapshots import GB

from pilotlight_autoscaler import (
    AutoscalingConfig,
    InputError,
    ModelSnapshot,
    Phase,
    PolicyState,
    PoolConfig,
    ReplicaSnapshot,
    Rule,
    Tier,
)


class Live(OneModel):
    """On one worker of a pool that may grow by one."""

    def __init__(self, *, on_deploy: bool = True, **config: object) -> None:
        pool = PoolConfig(max_workers=2, buffer_workers=0)
        prewarm = {"on_deploy": on_deploy}
        super().__init__(pool, workers=1, cold_start_s=8.0, prewarm=prewarm, **config)


def full() -> Live:
    """Its only worker is taken by another model."""
    live = Live()
    live.autoscaler.update_model(
        ModelSnapshot("b", "b-1", GB, AutoscalingConfig(idle_timeout_s=900))
    )
    live.join(0, ReplicaSnapshot("b", "b-1", GB, Phase.READY, 10, 0, 10))
    live.autoscaler.deployed("a")
    return live


def test_on_deploy_starts_one_replica_and_then_the_policy_decides() -> None:
    live = Live(max_replicas=3)
    assert live.decide_at(10).attach == ()  # it was only made known
    live.autoscaler.deployed("a")
    (attach,) = live.decide_at(20).attach
    assert attach.reason.rule is Rule.DEPLOY
    assert attach.reason.text == (
        "its revision has gone live: wants 1, has 0; would not without prewarm.on_deploy"
    )

    live.put("w0", Phase.READY, 24)
    live.autoscaler.cold_started("a", Tier.DISK, 4.0)
    least_s = 24 + live.model.config.keep_alive.min_s
    assert live.decide_at(24).wake_at_s == least_s
    ends_s = live.decide_at(least_s).wake_at_s
    assert ends_s == pytest.approx(24 + 4 * 31)  # the break-even of what was measured
    assert [each.reason.rule for each in live.autoscaler.decide(ends_s).detach] == [Rule.IDLE]
    live.autoscaler.remove_replica("w0", "a-1")
    assert live.decide_at(ends_s).attach == ()


def test_on_deploy_is_off_unless_it_was_asked_for() -> None:
    live = Live(on_deploy=False)
    live.autoscaler.deployed("a")

    assert live.decide_at(20).attach == ()


def test_on_deploy_holds_where_the_idle_time_is_fixed() -> None:
    live = Live(idle_timeout_s=5)
    live.autoscaler.deployed("a")
    assert len(live.decide_at(20).attach) == 1
    live.put("w0", Phase.READY, 24)

    assert live.decide_at(24).wake_at_s == 29


def test_on_deploy_waits_for_room_and_evicts_nothing() -> None:
    """Nobody is served by it; but a pool that may grow does."""
    live = full()
    decision = live.decide_at(20)
    assert (decision.attach, decision.unplaced) == ((), ())
    assert decision.pool is not None
    assert decision.pool.workers == 2

    live.join(1)
    (attach,) = live.autoscaler.decide(30).attach
    assert (attach.worker_id, attach.evict) == ("w1", ())


def test_on_deploy_without_room_is_tried_again_in_ten_seconds() -> None:
    live = full()
    assert live.decide_at(20).wake_at_s == 30
    live.autoscaler.remove_replica("w0", "b-1")
    live.autoscaler.update_model(live.model)  # it is looked at

    assert live.decide_at(29).attach == ()
    assert len(live.decide_at(30).attach) == 1


def test_on_deploy_that_waits_for_room_is_over_when_it_is_set_to_false() -> None:
    live = full()
    live.decide_at(20)
    live.configure(prewarm={"on_deploy": False})
    live.decide_at(25)
    live.autoscaler.remove_replica("w0", "b-1")
    assert live.decide_at(40).attach == ()


def test_on_deploy_that_is_set_anew_starts_nothing() -> None:
    """It was taken back before there was room: no revision has gone live since."""
    live = full()
    live.decide_at(20)
    config = AutoscalingConfig.model_validate({"prewarm": {"on_deploy": False}})
    live.autoscaler.update_model(replace(live.model, config=config))
    live.decide_at(25)
    live.autoscaler.remove_replica("w0", "b-1")
    live.autoscaler.update_model(live.model)

    assert live.decide_at(40).attach == ()


def test_on_deploy_that_waits_for_room_is_explained() -> None:
    live = full()
    live.decide_at(20)
    told = live.autoscaler.explain("a", 24)

    assert told.rule is Rule.REST
    assert "its start at the deploy found no room and is tried again in 6.0 s" in told.text


def test_on_deploy_tries_again_after_a_failed_attach() -> None:
    live = Live()
    live.autoscaler.deployed("a")
    assert len(live.decide_at(20).attach) == 1
    live.autoscaler.remove_replica("w0", "a-1")
    live.autoscaler.update_model(replace(live.model, retry_at_s=25.0))

    assert live.decide_at(20).wake_at_s == 25
    assert len(live.decide_at(25).attach) == 1


def test_on_deploy_survives_a_restart_and_is_not_repeated_by_one() -> None:
    first = Live()
    first.autoscaler.deployed("a")
    due = PolicyState.from_json(first.autoscaler.state().to_json())
    second = Live()
    second.autoscaler.restore(due)
    assert len(second.decide_at(20).attach) == 1

    second.put("w0", Phase.READY, 24)
    second.decide_at(24)
    third = Live()
    third.autoscaler.restore(second.autoscaler.state())
    assert third.decide_at(30).attach == ()


def test_on_deploy_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match="no model 'b'"):
        Live().autoscaler.deployed("b")
