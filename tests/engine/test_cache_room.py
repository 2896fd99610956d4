"""Keys and values are bounded: the youngest request pauses, and answers as if it had not."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from pilotlight_platform.engine import lane as lane_module
from pilotlight_platform.engine.batch import Batch
from pilotlight_platform.engine.cache_room import CacheRoom
from pilotlight_platform.engine.executor import Engine
from pilotlight_platform.errors import EngineError, InvalidRequestError

TOKEN_NBYTES = 3 * 2 * 2 * 16 * 4  # of conftest's llama: layers, keys and values, heads, width
ROOM = 64  # columns that a buffer has beyond its tokens
PROMPTS = [[5, 9, 44], [7] * 15, [100, 200, 300, 12], [42]]


@dataclass
class Watched:
    """An engine with a limit, what it prefilled, and the most that its batches held at a step."""

    engine: Engine
    limit_bytes: int
    prefilled: list[tuple[object, int]] = field(default_factory=list)  # skeleton, tokens
    most_bytes: int = 0
    fewest_batches: int = 1 << 30  # of two rows or more
    most_batches: int = 0

    def look(self) -> None:
        batches = [batch for lane in self.engine._lanes.values() for batch in lane._batches]
        if sum(len(batch.rows) for batch in batches) > 1:
            self.fewest_batches = min(self.fewest_batches, len(batches))
            self.most_batches = max(self.most_batches, len(batches))
            self.most_bytes = max(self.most_bytes, sum(batch.nbytes for batch in batches))


@pytest.fixture
def watched(monkeypatch):
    """Makes an engine with room for so many tokens of the llama, not started yet."""

    def make(tokens: int) -> Watched:
        limit_bytes = tokens * TOKEN_NBYTES
        made = Watched(Engine(threads=1, max_batch=8, cache_limit_bytes=limit_bytes), limit_bytes)
        prefill, step = lane_module.prefill, Batch.step

        def noting_prefill(skeleton, sequence):
            made.prefilled.append((skeleton, sequence.length))
            return prefill(skeleton, sequence)

        def noting_step(batch):
            made.look()
            return step(batch)

        monkeypatch.setattr(lane_module, "prefill", noting_prefill)
        monkeypatch.setattr(Batch, "step", noting_step)
        return made

    return make


@contextmanager
def begun(watched: Watched):
    """Started with all that was submitted before: who is older is certain then."""
    with watched.engine:
        yield


@pytest.fixture
def known(attach, submit):
    """A replica whose skeleton has run, as the rehearsal of a worker sees to."""

    def attached(name: str):
        replica = attach(name)
        submit(replica, [5]).finish()
        return replica

    return attached


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "mpt"])
def test_requests_that_pause_answer_as_if_alone(name, known, watched, submit):
    replica = known(name)
    sampled = {"max_tokens": 40, "ignore_eos": True}
    if name == "llama":
        sampled |= {"temperature": 0.8, "seed": 4}
    alone = [submit(replica, prompt, **sampled).finish().tokens for prompt in PROMPTS]
    engine = watched({"llama": 180, "mistral": 40, "gpt2": 400, "mpt": 400}[name])
    crowded = [submit(replica, prompt, to=engine.engine, **sampled) for prompt in PROMPTS]

    with begun(engine):
        assert [answer.finish().tokens for answer in crowded] == alone
    assert len(engine.prefilled) > len(PROMPTS) or name == "mistral"  # whose rows do not grow


@pytest.mark.parametrize(
    ("limit", "lengths"),
    [
        (200, [60, 1]),
        (400, [60, 1, 1, 1, 1, 1, 1]),
        (700, [1, 2, 3, 4, 5, 6, 7, 60]),
        (300, [1, 60, 1, 60, 1, 60, 1, 60]),
    ],
)
def test_rows_of_mixed_lengths_stay_within_the_limit_and_rarely_pause(
    limit, lengths, known, watched, submit
):
    replica, engine = known("llama"), watched(limit)
    answers = [
        submit(replica, [7] * length, to=engine.engine, max_tokens=30, ignore_eos=True)
        for length in lengths
    ]

    with begun(engine):
        assert [answer.finish().count for answer in answers] == [30] * len(lengths)
    step_bytes = 2 * len(lengths) * TOKEN_NBYTES  # a token for each row, before some pause
    assert engine.most_bytes <= engine.limit_bytes + step_bytes
    assert len(engine.prefilled) <= 1.5 * len(lengths)


def test_short_request_does_not_wait_for_padding_beside_a_long_one(known, watched, submit):
    replica = known("llama")
    engine = watched(290)  # 100 + 64 and 1 + 64, with headroom; padded to two rows it is 328
    long = submit(replica, [7] * 100, to=engine.engine, max_tokens=20, ignore_eos=True)
    short = submit(replica, [7], to=engine.engine, max_tokens=20, ignore_eos=True)

    with begun(engine):
        assert "room" not in spans_of(short.finish())
        assert long.finish().count == 20


def test_oldest_request_is_never_paused(known, watched, submit):
    replica, engine = known("llama"), watched(100)
    answers = [
        submit(replica, prompt, to=engine.engine, max_tokens=50, ignore_eos=True)
        for prompt in PROMPTS
    ]

    with begun(engine):
        assert [answer.finish().count for answer in answers] == [50] * 4
    assert [tokens for _, tokens in engine.prefilled].count(len(PROMPTS[0])) == 1


def test_request_that_needs_more_than_all_the_room_is_answered_alone(known, watched, submit):
    replica, engine = known("llama"), watched(10)
    answers = [
        submit(replica, [7] * 15, to=engine.engine, max_tokens=30, ignore_eos=True)
        for _ in range(3)
    ]

    with begun(engine):
        assert [answer.finish().count for answer in answers] == [30, 30, 30]
    assert [tokens for _, tokens in engine.prefilled] == [15, 15, 15]


def test_request_of_another_model_pauses_if_it_is_younger(known, watched, submit):
    llama, gpt2 = known("llama"), known("gpt2")
    engine = watched(240)  # a row of gpt2 is twice as wide
    long = {"max_tokens": 50, "ignore_eos": True}
    older = submit(llama, PROMPTS[0], to=engine.engine, **long)
    younger = submit(gpt2, PROMPTS[0], to=engine.engine, **long)

    with begun(engine):
        assert (older.finish().count, younger.finish().count) == (50, 50)
    assert engine.prefilled[:2] == [(llama.skeleton, 3), (gpt2.skeleton, 3)]
    assert [skeleton for skeleton, _ in engine.prefilled[2:]] == [gpt2.skeleton]


def test_oldest_of_all_models_starts_first(known, watched, submit):
    llama, gpt2, engine = known("llama"), known("gpt2"), watched(10)
    arrivals = [llama, gpt2, gpt2, llama]  # after the third it is the turn of the fourth's lane
    for replica in arrivals:
        last = submit(replica, PROMPTS[0], to=engine.engine, max_tokens=5, ignore_eos=True)

    with begun(engine):
        last.finish()
    assert [skeleton for skeleton, _ in engine.prefilled] == [each.skeleton for each in arrivals]


def test_request_whose_lane_had_no_turn_yet_is_older_all_the_same(known, watched, submit):
    llama, gpt2, engine = known("llama"), known("gpt2"), watched(10)
    submit(llama, [7], to=engine.engine, max_tokens=1)  # its lane is the first
    for replica in (gpt2, llama):
        last = submit(replica, PROMPTS[0], to=engine.engine, max_tokens=5, ignore_eos=True)

    with begun(engine):
        last.finish()
    assert [skeleton for skeleton, _ in engine.prefilled][1:] == [gpt2.skeleton, llama.skeleton]


def test_batches_merge_where_padding_fits_by_now(known, watched, submit, monkeypatch):
    replica = known("llama")
    alone = submit(replica, [7], max_tokens=30, ignore_eos=True).finish().tokens
    engine = watched(480)
    lengths = [90, 1, 1]  # 155 columns for each row of a batch, 66 for the third apart
    tokens = [30, 3, 30]  # when the second has ended, the third can join
    answers = [
        submit(replica, [7] * length, to=engine.engine, max_tokens=count, ignore_eos=True)
        for length, count in zip(lengths, tokens, strict=True)
    ]

    with begun(engine):
        assert [answer.finish().count for answer in answers] == tokens
        assert answers[2].tokens == alone
        assert len(engine.prefilled) == 3
    assert (engine.most_batches, engine.fewest_batches) == (2, 1)


def test_oldest_of_those_that_pause_goes_on_first(known, watched, submit):
    replica, engine = known("llama"), watched(260)
    answers = [
        submit(replica, [7] * length, to=engine.engine, max_tokens=80, ignore_eos=True)
        for length in (3, 4, 10)
    ]

    with begun(engine):
        assert [answer.finish().count for answer in answers] == [80, 80, 80]
    *_, second, third = [tokens for _, tokens in engine.prefilled]
    assert len(engine.prefilled) == 5
    assert second > 40 > third  # the youngest paused first, with fewer tokens


def test_window_is_all_that_a_request_needs_room_for(known, watched, submit):
    replica = known("mistral")  # a window of 12
    engine = watched(60)
    answers = [
        submit(replica, [7] * 100, to=engine.engine, max_tokens=20, ignore_eos=True)
        for _ in range(3)
    ]

    with begun(engine):
        assert all("room" not in spans_of(answer.finish()) for answer in answers)


def test_waiting_for_room_is_a_span(known, watched, submit):
    replica, engine = known("llama"), watched(10)
    first, second = (
        submit(replica, PROMPTS[0], to=engine.engine, max_tokens=5, ignore_eos=True)
        for _ in range(2)
    )

    with begun(engine):
        assert "room" not in spans_of(first.finish())
        waited = next(span for span in second.finish().chunks[0].spans if span.name == "room")
    assert waited.end_s >= first.chunks[-1].spans[-1].end_s


def test_bad_request_is_refused_while_others_wait_for_room(known, watched, submit):
    replica, engine = known("llama"), watched(10)
    running, _ = (
        submit(replica, PROMPTS[0], to=engine.engine, max_tokens=100, ignore_eos=True)
        for _ in range(2)
    )
    bad = submit(replica, [999], to=engine.engine)

    with begun(engine):
        with pytest.raises(InvalidRequestError):
            bad.finish()
        assert running.finish().count == 100
    assert "decode" not in {span.name for chunk in running.chunks[:2] for span in chunk.spans}


def spans_of(answer):
    return [span.name for span in answer.chunks[0].spans]


class Meanwhile:
    """A sink that does something on the compute thread, once *ready*, and then looks."""

    def __init__(self, ready, act, look) -> None:
        self._ready, self._act, self._look = ready, act, look
        self._acted = False
        self.seen = None

    def __call__(self, chunk) -> None:
        if self._acted and self.seen is None:
            self.seen = self._look()
        elif not self._acted and self._ready():
            self._acted = True
            self._act()


def is_paused(answer, lane) -> bool:
    return any(held.ticket is answer.ticket and held.decode_start_s for held in lane._held)


def test_paused_request_that_is_cancelled_is_settled_before_there_is_room(known, watched, submit):
    replica, engine = known("llama"), watched(160)
    long = {"max_tokens": 100, "ignore_eos": True}
    meanwhile = Meanwhile(
        lambda: any(is_paused(youngest, lane) for lane in engine.engine._lanes.values()),
        lambda: youngest.ticket.cancel(),
        lambda: engine.engine.ongoing(replica),
    )
    submit(replica, PROMPTS[0], to=engine.engine, sink=meanwhile, **long)
    youngest = submit(replica, PROMPTS[0], to=engine.engine, **long)
    last = submit(replica, PROMPTS[0], to=engine.engine)

    with begun(engine):
        last.finish()
    assert meanwhile.seen == 2  # the oldest, and the last one


def test_paused_request_of_a_dropped_replica_fails(known, watched, submit):
    replica, engine = known("llama"), watched(160)
    long = {"max_tokens": 100, "ignore_eos": True}
    drop = Meanwhile(
        lambda: any(is_paused(youngest, lane) for lane in engine.engine._lanes.values()),
        lambda: engine.engine.drop(replica),
        lambda: None,
    )
    submit(replica, PROMPTS[0], to=engine.engine, sink=drop, **long)
    youngest = submit(replica, PROMPTS[0], to=engine.engine, **long)

    with begun(engine):
        with pytest.raises(EngineError, match="dropped"):
            youngest.finish()
        assert engine.engine.ongoing(replica) == 0


def test_room_is_free_again_after_a_replica_was_dropped(known, watched, submit):
    llama, gpt2, engine = known("llama"), known("gpt2"), watched(300)
    endless = submit(llama, [7] * 100, to=engine.engine, max_tokens=None, ignore_eos=True)

    with begun(engine):
        endless.next()
        engine.engine.drop(llama)
        answers = [submit(gpt2, [5], to=engine.engine, max_tokens=4) for _ in range(2)]
        assert all("room" not in spans_of(answer.finish()) for answer in answers)


def test_failure_of_a_pause_fails_its_lane_and_not_the_engine(known, watched, submit, monkeypatch):
    llama, gpt2, engine = known("llama"), known("gpt2"), watched(240)
    long = {"max_tokens": 50, "ignore_eos": True}
    older = submit(llama, PROMPTS[0], to=engine.engine, **long)
    younger = submit(gpt2, PROMPTS[0], to=engine.engine, **long)

    def no_memory(_lane):
        raise MemoryError("not enough")

    monkeypatch.setattr(lane_module.Lane, "pause_youngest", no_memory)
    with begun(engine):
        with pytest.raises(EngineError, match="not enough"):
            younger.finish()
        assert older.finish().count == 50
        assert engine.engine.alive


def test_room_without_a_limit_admits_everything() -> None:
    room = CacheRoom(None)
    room.note("lane", 1 << 60, 0)

    assert room.admits(1, 1 << 60)
    assert not room.overfull


@pytest.mark.parametrize("used", [0, 10])
def test_room_admits_nobody_before_an_older_request(used) -> None:
    room = CacheRoom(100)
    room.note("lane", used, 3)

    assert not room.admits(4, 1)
    assert room.admits(3, 1)
    assert room.admits(2, 1)


def test_room_admits_what_fits_with_headroom() -> None:
    room = CacheRoom(100)
    room.note("lane", 50, None)

    assert room.admits(1, 40)
    assert not room.admits(1, 41)


def test_room_admits_one_alone() -> None:
    room = CacheRoom(100)
    room.note("lane", 0, None)

    assert room.admits(1, 1000)


def test_room_of_a_lane_that_ended_is_free() -> None:
    room = CacheRoom(100)
    room.note("lane", 101, 0)
    room.forget("lane")

    assert not room.overfull
    assert room.admits(1, 90)
