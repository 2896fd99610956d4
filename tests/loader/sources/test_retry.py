from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_loader.errors import AccessDeniedError, ObjectChangedError, TransientReadError
from pilotlight_loader.sources.retry import MAX_RETRY_AFTER_S, RetryPolicy, retried

TRANSIENT = TransientReadError("there", "timed out")


def highest() -> float:
    return 1.0


def test_delay_doubles_up_to_its_limit():
    policy = RetryPolicy(attempts=9, first_s=0.1, max_s=1.0)
    delays = [policy.delay_s(attempt, TRANSIENT, highest) for attempt in range(1, 7)]

    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_delay_is_jittered_from_zero():
    assert RetryPolicy().delay_s(3, TRANSIENT, lambda: 0.0) == 0.0


def test_delay_ends_with_the_attempts():
    policy = RetryPolicy(attempts=3)

    assert policy.delay_s(2, TRANSIENT, highest) is not None
    assert policy.delay_s(3, TRANSIENT, highest) is None


@pytest.mark.parametrize("kind", [AccessDeniedError, ObjectChangedError])
def test_delay_is_none_for_what_another_attempt_cannot_help(kind):
    assert RetryPolicy().delay_s(1, kind("there", "no"), highest) is None


def test_delay_is_never_shorter_than_the_server_asked():
    asked = TransientReadError("there", "busy", retry_after_s=7.0)

    assert RetryPolicy().delay_s(1, asked, highest) == 7.0


def test_delay_is_none_where_the_server_asks_for_too_much():
    asked = TransientReadError("there", "busy", retry_after_s=MAX_RETRY_AFTER_S + 1)

    assert RetryPolicy().delay_s(1, asked, highest) is None


@given(
    attempt=st.integers(1, 10**9),
    asked=st.none() | st.floats(0, 1e9),
    number=st.floats(0, 1, exclude_max=True),
)
def test_delay_is_bounded(attempt, asked, number):
    error = TransientReadError("there", "busy", asked)
    delay = RetryPolicy(attempts=10**9 + 1).delay_s(attempt, error, lambda: number)

    assert delay is None or 0 <= delay <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize("broken", [{"attempts": 0}, {"first_s": -1.0}, {"max_s": 0.01}])
def test_policy_that_makes_no_sense_is_refused(broken):
    with pytest.raises(ValueError, match="needs attempts >= 1"):
        RetryPolicy(**broken)


def test_retried_gives_the_first_success():
    answers = [TRANSIENT, TRANSIENT, 7]
    slept: list[float] = []

    assert retried(lambda: give(answers), RetryPolicy(), slept.append) == 7
    assert len(slept) == 2


def test_retried_raises_the_last_error_when_attempts_are_used_up():
    answers = [TRANSIENT, TransientReadError("there", "the last"), 7]

    with pytest.raises(TransientReadError, match="the last"):
        retried(lambda: give(answers), RetryPolicy(attempts=2), lambda _: None)


def test_retried_raises_at_once_what_cannot_be_helped():
    answers = [AccessDeniedError("there", "no"), 7]

    with pytest.raises(AccessDeniedError):
        retried(lambda: give(answers), RetryPolicy(), lambda _: None)


def give(answers: list) -> int:
    answer = answers.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer
