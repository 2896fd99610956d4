"""Laws of the policy, on generated clusters and over simulated minutes."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pilotlight_autoscaler import (
    Attach,
    AutoscalingConfig,
    ClusterSnapshot,
    Decision,
    ModelSnapshot,
    Phase,
    PolicyState,
    PoolConfig,
    ReplicaSnapshot,
    WorkerSnapshot,
)
from pilotlight_autoscaler import decide as decide_and_remember

NOW_S = 1000.0
POOL = PoolConfig(min_workers=1, max_workers=1)  # fixed: its wake-ups stay out of these laws
NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True)
class Picture:
    """A cluster with the models on it."""

    workers: tuple[WorkerSnapshot, ...]
    models: tuple[ModelSnapshot, ...]


def decide(picture: Picture, now_s: float, state: PolicyState | None = None) -> Decision:
    """Without what it did not do: that depends on what was said before."""
    return remember(picture, now_s, state)[0]


def remember(
    picture: Picture, now_s: float, state: PolicyState | None = None
) -> tuple[Decision, PolicyState]:
    decision, state = decide_and_remember(
        ClusterSnapshot(picture.workers), picture.models, POOL, state or PolicyState(), now_s
    )
    return replace(decision, pool=None, reasons=()), state


# Round ages hit the boundaries and the ties, the others the rounding of floats.
ages_s = st.sampled_from([-3.0, 0.0, 0.5, 1.0, 2.0, 59.0, 60.0, 61.0]) | st.floats(0, 100)
durations_s = st.sampled_from([0.0, 0.5, 1.0, 2.0, 60.0]) | st.floats(0, 100)


@st.composite
def configs(draw: st.DrawFn) -> AutoscalingConfig:
    min_replicas = draw(st.sampled_from([0, 0, 0, 1, 2]))
    return AutoscalingConfig(
        min_replicas=min_replicas,
        max_replicas=max(1, min_replicas + draw(st.integers(0, 3))),
        max_ongoing_requests=draw(st.sampled_from([1, 2, 8])),
        target_ongoing_requests=draw(st.sampled_from([None, 0.5, 1.0])),
        idle_timeout_s=draw(durations_s),
        upscale_delay_s=draw(st.sampled_from([0.0, 0.0, 2.0, 60.0])),
        upscaling_factor=draw(st.sampled_from([1.0, 1.0, 0.3, 4.0])),
        placement={"spread": draw(st.booleans())},
    )


@st.composite
def models(draw: st.DrawFn, name: str) -> ModelSnapshot:
    queued = draw(st.sampled_from([0, 0, 1, 2, 9]))
    return ModelSnapshot(
        name=name,
        revision_id=f"{name}-1",
        nbytes=draw(st.integers(1, 9)),
        config=draw(configs()),
        queued=queued,
        oldest_queued_since_s=NOW_S - draw(ages_s) if queued else None,
        cold_start_s=draw(durations_s),
        requests_per_s=draw(st.sampled_from([0.0, 0.1, 1.0])),
        retry_at_s=NOW_S + draw(st.sampled_from([-1.0, -1.0, -1.0, 0.0, 5.0])),
    )


@st.composite
def replicas(draw: st.DrawFn, revision_id: str, nbytes: int) -> ReplicaSnapshot:
    phase = draw(st.sampled_from([Phase.READY, Phase.READY, Phase.READY, *Phase]))
    ongoing = 0 if phase is Phase.ATTACHING else draw(st.sampled_from([0, 0, 1, 8]))
    since_s = NOW_S - draw(ages_s)
    idle = phase is Phase.READY and not ongoing
    return ReplicaSnapshot(
        revision_id[0], revision_id, nbytes, phase, since_s, ongoing, since_s if idle else None
    )


@st.composite
def clusters(draw: st.DrawFn) -> Picture:
    live = [draw(models(name)) for name in NAMES[: draw(st.integers(1, len(NAMES)))]]
    nbytes = {model.revision_id: model.nbytes for model in live} | {"a-0": 2, "gone-1": 3}
    workers = []
    for n in range(draw(st.integers(0, 4))):
        held = draw(st.lists(st.sampled_from(sorted(nbytes)), unique=True, max_size=4))
        workers.append(
            WorkerSnapshot(
                worker_id=f"w{n}",
                node_id="node",
                capacity_bytes=draw(st.integers(0, 14)),
                max_replicas=draw(st.integers(0, 5)),
                replicas=tuple(draw(replicas(each, nbytes[each])) for each in held),
            )
        )
    return Picture(tuple(workers), tuple(live))


def is_idle(replica: ReplicaSnapshot) -> bool:
    return replica.phase is Phase.READY and replica.ongoing == 0


def used_bytes(worker: WorkerSnapshot) -> int:
    return sum(replica.nbytes for replica in worker.replicas)


def count(snapshot: Picture, model: ModelSnapshot, *phases: Phase) -> int:
    return sum(
        replica.revision_id == model.revision_id and replica.phase in phases
        for worker in snapshot.workers
        for replica in worker.replicas
    )


def without(worker: WorkerSnapshot, revision_id: str) -> WorkerSnapshot:
    """Detach one revision; it must be there, ready and idle."""
    (gone,) = [each for each in worker.replicas if each.revision_id == revision_id]
    assert is_idle(gone), f"{gone} was to go"
    return replace(worker, replicas=tuple(each for each in worker.replicas if each is not gone))


def with_attaching(
    worker: WorkerSnapshot, action: Attach, nbytes: int, now_s: float
) -> WorkerSnapshot:
    """Attach after evicting; it must fit."""
    for revision_id in action.evict:
        worker = without(worker, revision_id)
    assert action.revision_id not in {each.revision_id for each in worker.replicas}
    new = ReplicaSnapshot(action.model, action.revision_id, nbytes, Phase.ATTACHING, now_s, 0, None)
    worker = replace(worker, replicas=(*worker.replicas, new))
    assert used_bytes(worker) <= worker.capacity_bytes
    assert len(worker.replicas) <= worker.max_replicas
    return worker


def apply(snapshot: Picture, decision: Decision, now_s: float = NOW_S) -> Picture:
    """The cluster after a decision, checked step by step."""
    nbytes = {model.name: model.nbytes for model in snapshot.models}
    workers = {worker.worker_id: worker for worker in snapshot.workers}
    for attach in decision.attach:
        worker = workers[attach.worker_id]
        workers[attach.worker_id] = with_attaching(worker, attach, nbytes[attach.model], now_s)
    for detach in decision.detach:
        workers[detach.worker_id] = without(workers[detach.worker_id], detach.revision_id)
    for drain in decision.drain:
        workers[drain.worker_id] = draining(workers[drain.worker_id], drain.revision_id, now_s)
    return replace(snapshot, workers=tuple(workers.values()))


def draining(worker: WorkerSnapshot, revision_id: str, now_s: float) -> WorkerSnapshot:
    """Drain one revision; it must be there, ready and busy."""
    (old,) = [each for each in worker.replicas if each.revision_id == revision_id]
    assert not is_idle(old), f"{old} was to be drained"
    new = replace(old, phase=Phase.DRAINING, since_s=now_s)
    return replace(worker, replicas=tuple(new if r is old else r for r in worker.replicas))


@given(snapshot=clusters())
@settings(max_examples=200)
def test_decide_stays_within_replicas_and_room(snapshot: Picture) -> None:
    """``apply`` checks the room, and that only idle replicas go."""
    after = apply(snapshot, decide(snapshot, NOW_S))

    live = (Phase.READY, Phase.ATTACHING)
    for model in snapshot.models:
        config = model.config
        assert count(after, model, *live) <= max(config.max_replicas, count(snapshot, model, *live))
        assert count(after, model, Phase.READY) >= min(
            config.min_replicas, count(snapshot, model, Phase.READY)
        )


@given(snapshot=clusters())
@settings(max_examples=200)
def test_decide_touches_no_busy_replica(snapshot: Picture) -> None:
    after = apply(snapshot, decide(snapshot, NOW_S))

    for before_worker, after_worker in zip(snapshot.workers, after.workers, strict=True):
        kept = {each.revision_id: each for each in before_worker.replicas if not is_idle(each)}
        left = {each.revision_id: each for each in after_worker.replicas}
        assert {name: left[name].ongoing for name in kept} == {
            name: each.ongoing for name, each in kept.items()
        }


def headroom_taken() -> Picture:
    """a's queue takes the room of an idle b that still wants it, and fits where a is already."""
    busy_a = ReplicaSnapshot("a", "a-1", 2, Phase.READY, NOW_S - 9, 8, None)
    busy_b = ReplicaSnapshot("b", "b-1", 6, Phase.READY, NOW_S - 9, 6, None)
    idle_b = ReplicaSnapshot("b", "b-1", 6, Phase.READY, NOW_S - 9, 0, NOW_S - 9)
    config = AutoscalingConfig(max_replicas=2, idle_timeout_s=60)
    return Picture(
        workers=(
            WorkerSnapshot("w0", "node", 8, 2, (busy_a,)),
            WorkerSnapshot("w1", "node", 6, 2, (busy_b,)),
            WorkerSnapshot("w2", "node", 6, 2, (idle_b,)),
        ),
        models=(
            ModelSnapshot("a", "a-1", 2, config, queued=9, oldest_queued_since_s=NOW_S),
            ModelSnapshot("b", "b-1", 6, config),
        ),
    )


@given(snapshot=clusters())
@example(snapshot=headroom_taken())
@settings(max_examples=200)
def test_decide_is_idempotent(snapshot: Picture) -> None:
    decision, state = remember(snapshot, NOW_S)
    again = decide(apply(snapshot, decision), NOW_S, state)

    assert again == replace(decision, attach=(), detach=(), drain=(), wake_at_s=again.wake_at_s)


@given(snapshot=clusters(), data=st.data())
@settings(max_examples=100)
def test_decide_does_not_depend_on_the_order_of_its_input(
    snapshot: Picture, data: st.DataObject
) -> None:
    shuffled = Picture(
        tuple(data.draw(st.permutations(snapshot.workers))),
        tuple(data.draw(st.permutations(snapshot.models))),
    )

    assert decide(shuffled, NOW_S) == decide(snapshot, NOW_S)


@given(snapshot=clusters(), more=st.integers(1, 50))
@settings(max_examples=100)
def test_more_queued_never_attaches_fewer_where_there_is_room(snapshot: Picture, more: int) -> None:
    roomy = tuple(
        replace(worker, capacity_bytes=1000, max_replicas=100) for worker in snapshot.workers
    )
    first, *others = snapshot.models
    fuller = replace(first, queued=first.queued + more)

    def attached(model: ModelSnapshot) -> int:
        decision = decide(Picture(roomy, (model, *others)), NOW_S)
        return sum(action.model == model.name for action in decision.attach)

    assert attached(fuller) >= attached(first)


@given(snapshot=clusters())
@settings(max_examples=150)
def test_wake_up_is_later(snapshot: Picture) -> None:
    decision = decide(snapshot, NOW_S)

    assert decision.wake_at_s is None or decision.wake_at_s > NOW_S


@given(snapshot=clusters(), later=st.floats(0, 1), horizon_s=st.sampled_from([5.0, 200.0]))
@settings(max_examples=200)
def test_nothing_happens_before_the_wake_up(
    snapshot: Picture, later: float, horizon_s: float
) -> None:
    decision, state = remember(snapshot, NOW_S)
    end_s = NOW_S + horizon_s if decision.wake_at_s is None else decision.wake_at_s
    time_s = NOW_S + later * (end_s - NOW_S)
    assume(time_s < end_s)

    between = decide(apply(snapshot, decision), time_s, state)

    assert (between.attach, between.detach) == ((), ())


def test_last_replica_waits_for_the_step_that_took_the_others() -> None:
    """Two replicas of a model that may have one now: never both at once."""
    snapshot = Picture(
        workers=tuple(
            WorkerSnapshot(
                worker_id,
                "node",
                10,
                1,
                (ReplicaSnapshot("a", "a-1", 1, Phase.READY, NOW_S - 9, 0, NOW_S - 9),),
            )
            for worker_id in ("w0", "w1")
        ),
        models=(
            ModelSnapshot(
                "a", "a-1", 1, AutoscalingConfig(max_replicas=1, idle_timeout_s=0), cold_start_s=0.0
            ),
        ),
    )
    first, state = remember(snapshot, NOW_S)
    second = decide(apply(snapshot, first), NOW_S, state)

    assert len(first.detach) == 1
    assert second.detach == ()


def serve(snapshot: Picture, load: dict[str, int], now_s: float) -> Picture:
    """Finish the attaches that are due, then spread each model's requests over its replicas."""
    models = {model.name: model for model in snapshot.models}
    due = [
        replace(worker, replicas=tuple(finished(each, models, now_s) for each in worker.replicas))
        for worker in snapshot.workers
    ]
    snapshot = replace(snapshot, workers=tuple(due))
    left = dict(load)
    ready = {name: count(snapshot, model, Phase.READY) for name, model in models.items()}

    def filled(each: ReplicaSnapshot) -> ReplicaSnapshot:
        if each.phase is not Phase.READY:
            return each
        share = -(-left[each.model] // ready[each.model])
        ongoing = min(share, models[each.model].config.max_ongoing_requests)
        left[each.model] -= ongoing
        ready[each.model] -= 1
        since_s = now_s if each.idle_since_s is None else each.idle_since_s
        return replace(each, ongoing=ongoing, idle_since_s=None if ongoing else since_s)

    workers = tuple(
        replace(worker, replicas=tuple(filled(each) for each in worker.replicas))
        for worker in snapshot.workers
    )
    asked = tuple(replace(model, queued=left[name]) for name, model in models.items())
    return Picture(workers, asked)


def finished(
    replica: ReplicaSnapshot, models: dict[str, ModelSnapshot], now_s: float
) -> ReplicaSnapshot:
    if replica.phase is Phase.ATTACHING and now_s >= ready_at_s(replica, models):
        return replace(replica, phase=Phase.READY, since_s=now_s, idle_since_s=now_s)
    return replica


def ready_at_s(replica: ReplicaSnapshot, models: dict[str, ModelSnapshot]) -> float:
    return replica.since_s + models[replica.model].cold_start_s


def simulate(snapshot: Picture, load: dict[str, int], end_s: float) -> list[float]:
    """When actions were taken, deciding at every event and every wake-up from NOW_S on."""
    models = {model.name: model for model in snapshot.models}
    acted_at_s: list[float] = []
    now_s, state = NOW_S, PolicyState()
    for _ in range(1000):
        snapshot = serve(snapshot, load, now_s)
        decision, state = remember(snapshot, now_s, state)
        acted_at_s += [now_s] * (len(decision.attach) + len(decision.detach))
        snapshot = apply(snapshot, decision, now_s)
        events_s = [
            ready_at_s(each, models)
            for worker in snapshot.workers
            for each in worker.replicas
            if each.phase is Phase.ATTACHING
        ]
        if decision.wake_at_s is not None:
            events_s.append(decision.wake_at_s)
        now_s = min(events_s, default=end_s)
        if now_s >= end_s:
            return acted_at_s
    raise AssertionError("more than 1000 decisions for a constant load: a busy loop")


@given(snapshot=clusters(), load=st.lists(st.sampled_from([0, 0, 1, 3, 6, 20]), min_size=4))
@settings(max_examples=100)
def test_constant_load_settles(snapshot: Picture, load: list[int]) -> None:
    """Whether or not the cluster is large enough: 10 minutes, and the last 5 bring no action."""
    empty = tuple(replace(worker, replicas=()) for worker in snapshot.workers)
    steady = tuple(
        replace(model, oldest_queued_since_s=NOW_S, retry_at_s=0.0) for model in snapshot.models
    )

    acted_at_s = simulate(Picture(empty, steady), dict(zip(NAMES, load, strict=False)), NOW_S + 600)

    assert [time_s for time_s in acted_at_s if time_s > NOW_S + 300] == []


def large_cluster(queued: int) -> Picture:
    """1000 models on 100 full workers of ten idle replicas, and 100 more models with a queue."""
    config = AutoscalingConfig(max_replicas=2)
    models = [
        ModelSnapshot(
            name=f"m{n:04}",
            revision_id=f"r{n:04}",
            nbytes=1 + n % 7,
            config=config,
            queued=queued if n >= 1000 else 0,
            oldest_queued_since_s=NOW_S - n % 3,
            requests_per_s=n % 11 / 10,
        )
        for n in range(1100)
    ]
    workers = []
    for n in range(100):
        held = tuple(
            ReplicaSnapshot(
                each.name, each.revision_id, each.nbytes, Phase.READY, 0.0, 0, NOW_S - 10 - k
            )
            for k, each in enumerate(models[10 * n : 10 * n + 10])
        )
        nbytes = sum(each.nbytes for each in held)
        workers.append(WorkerSnapshot(f"w{n:03}", "node", nbytes, 10, held))
    return Picture(tuple(workers), tuple(models))


@pytest.mark.parametrize(("queued", "attached"), [(0, 0), (1, 100), (6, 200)])
def test_large_cluster_is_decided_alike_each_time(queued: int, attached: int) -> None:
    decision = decide(large_cluster(queued), NOW_S)

    assert len(decision.attach) == attached
    assert decide(large_cluster(queued), NOW_S) == decision
    apply(large_cluster(queued), decision)
