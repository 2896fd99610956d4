import asyncio

import pytest
from support.waiting import next_turn

from pilotlight_platform.engine.encoders import Encoders
from pilotlight_platform.engine.skeleton import Skeleton
from pilotlight_platform.errors import InvalidRequestError
from pilotlight_platform.schemas.generation import GenerationRequest, SamplingParams

# Jinja's sandbox bounds one range, not loops in loops: this one would take weeks.
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.fixture
def skeleton(baked):
    return Skeleton.load(baked("llama"))


@pytest.fixture
def encoders():
    encoders = Encoders(timeout_s=0.3)
    yield encoders
    encoders.close()


def chat(content="the fox"):
    message = {"role": "user", "content": content}
    return GenerationRequest("r", "rev", SamplingParams(), messages=(message,))


def test_encoders_encode_a_chat(encoders, skeleton):
    ids = asyncio.run(encoders.encode(skeleton, chat()))

    assert skeleton.tokenizer.decode(ids) == "user: the fox\nassistant:"


def test_encoders_end_a_template_that_does_not_end(encoders, skeleton):
    skeleton.tokenizer.chat_template = ENDLESS

    with pytest.raises(InvalidRequestError, match=r"not encoded within 0\.3 s"):
        asyncio.run(encoders.encode(skeleton, chat()))


def test_encoders_are_free_after_templates_that_do_not_end(encoders, skeleton):
    async def all_stuck_then_one():
        skeleton.tokenizer.chat_template = ENDLESS
        stuck = [encoders.encode(skeleton, chat()) for _ in range(6)]
        outcomes = await asyncio.gather(*stuck, return_exceptions=True)
        skeleton.tokenizer.chat_template = None
        return outcomes, await encoders.encode(skeleton, chat())

    outcomes, ids = asyncio.run(all_stuck_then_one())

    assert all(isinstance(outcome, InvalidRequestError) for outcome in outcomes)
    assert ids


def test_encoders_are_free_after_clients_that_went_away(encoders, skeleton):
    async def leave_then_one():
        skeleton.tokenizer.chat_template = ENDLESS
        left = [asyncio.create_task(encoders.encode(skeleton, chat())) for _ in range(4)]
        await next_turn()  # begun
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        skeleton.tokenizer.chat_template = None
        return await encoders.encode(skeleton, chat())

    assert asyncio.run(leave_then_one())
