"""What a gateway tells of cold starts, and that it tells without being waited for."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pilotlight_autoscaler import Tier
from pilotlight_platform.errors import WorkerLostError
from pilotlight_platform.gateway.cold_starts import ColdStartNews, cold_answer
from pilotlight_platform.gateway.timelines import TimelineLog
from pilotlight_platform.schemas.cold_start import ColdAnswer
from pilotlight_platform.schemas.timeline import Span, Timeline

SPANS = (
    Span("admit", 10.0, 10.001),
    Span("place", 10.001, 10.005),
    Span("attach", 10.005, 10.01, 100, "host"),
    Span("stage", 10.01, 10.011, 100, "host"),
    Span("prefill", 10.011, 10.2),
    Span("first_token", 10.2, 10.25),
    Span("decode", 10.25, 11.0),
)


def line(**change: Any) -> Timeline:
    values: dict[str, Any] = {"cold": True, "revision_id": "m-1", "ttft_s": 0.25, "spans": SPANS}
    return Timeline(
        **{
            "request_id": "r",
            "model": "m",
            "endpoint": "/v1",
            "at_s": 10.0,
            "status": 200,
            "total_s": 1.0,
            **values,
            **change,
        }
    )


def test_cold_answer_is_the_time_to_the_first_token_and_its_parts() -> None:
    answer = cold_answer(line())

    assert answer is not None
    assert (answer.model, answer.revision_id, answer.tier) == ("m", "m-1", Tier.HOST)
    assert answer.seconds == 0.25
    assert answer.spans["prefill"] == pytest.approx(0.189)
    assert "decode" not in answer.spans


def test_cold_answer_of_a_start_that_still_reads_is_from_the_disk() -> None:
    reading = (SPANS[0], SPANS[1], Span("attach", 10.005, 10.01, 100), *SPANS[4:])

    answer = cold_answer(line(spans=reading))
    assert answer is not None
    assert answer.tier is Tier.DISK


@pytest.mark.parametrize(
    "change",
    [
        {"cold": False},
        {"ttft_s": None},
        {"spans": (SPANS[0], SPANS[1], SPANS[4])},  # it came while another waited for the attach
        {"spans": (Span("attach", 10.0, 10.1, 1, "device"),)},
    ],
)
def test_cold_answer_of_other_requests_is_none(change: dict[str, Any]) -> None:
    assert cold_answer(line(**change)) is None


def test_timelines_are_told_of_when_they_have_ended_and_only_then() -> None:
    ended: list[Timeline] = []
    log = TimelineLog(10, ended.append)
    log.put(line(total_s=None))
    log.put(line())

    assert [each.total_s for each in ended] == [1.0]


def test_news_are_told_together_and_once() -> None:
    told: list[Sequence[ColdAnswer]] = []
    done = asyncio.Event()

    async def tell(answers: Sequence[ColdAnswer]) -> None:
        told.append(answers)
        done.set()

    async def run() -> None:
        news = ColdStartNews(tell, delay_s=0.01)
        news.note(line())
        news.note(line(cold=False))
        news.note(line(revision_id="m-2"))
        assert not told  # who notes does not wait
        await asyncio.wait_for(done.wait(), 5)
        await asyncio.wait_for(news.idle(), 5)

    asyncio.run(run())
    assert [[each.revision_id for each in answers] for answers in told] == [["m-1", "m-2"]]


def test_news_are_kept_while_the_scheduler_is_away_and_bounded() -> None:
    told: list[Sequence[ColdAnswer]] = []
    failures = iter([WorkerLostError("away"), None])

    async def tell(answers: Sequence[ColdAnswer]) -> None:
        failure = next(failures)
        if failure is not None:
            raise failure
        told.append(answers)

    async def run() -> None:
        news = ColdStartNews(tell, delay_s=0.01, retry_s=0.01)
        for number in range(300):
            news.note(line(revision_id=f"m-{number}"))
        await asyncio.wait_for(news.idle(), 5)

    asyncio.run(run())
    (answers,) = told
    assert len(answers) == 256
    assert answers[-1].revision_id == "m-299"  # the oldest have gone


def test_news_that_are_closed_tell_nothing() -> None:
    told: list[Sequence[ColdAnswer]] = []

    async def tell(answers: Sequence[ColdAnswer]) -> None:
        told.append(answers)

    async def run() -> None:
        news = ColdStartNews(tell, delay_s=0.01)
        news.note(line())
        news.close()
        await asyncio.wait_for(news.idle(), 5)

    asyncio.run(run())
    assert told == []


@pytest.mark.parametrize(
    "change",
    [{"attempts": 2}, {"spans": (*SPANS, Span("room", 10.01, 10.1))}],
    ids=["a replica went", "others took the memory"],
)
def test_cold_answer_leaves_out_what_the_next_start_will_not_meet(change: dict[str, Any]) -> None:
    assert cold_answer(line(**change)) is None
