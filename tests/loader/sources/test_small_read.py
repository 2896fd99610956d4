from __future__ import annotations

import pytest
from support.object_server import answer, close_early
from support.reading import DATA

from pilotlight_loader.errors import RangeAnswerError, TransientReadError
from pilotlight_loader.sources.retry import RetryPolicy
from pilotlight_loader.sources.small_read import open_retried, read_range

SOON = RetryPolicy(attempts=3, first_s=0.0, max_s=0.0)


def test_read_range_gives_the_bytes(http_store):
    assert read_range(http_store().open("blob"), 10, 20) == DATA[10:30]


def test_read_range_tries_again(http_store, server):
    source = http_store().open("blob")
    server.script("/model/blob", answer(503), close_early)

    assert read_range(source, 10, 20_000, SOON) == DATA[10:20_010]


def test_read_range_gives_up(http_store, server):
    source = http_store().open("blob")
    server.always = answer(503)

    with pytest.raises(TransientReadError):
        read_range(source, 10, 20, SOON)
    assert len(server.requests) == 1 + SOON.attempts


@pytest.mark.parametrize(("start", "nbytes"), [(0, 1 << 60), (-1, 5), (0, -1), (len(DATA), 1)])
def test_read_range_outside_is_refused_before_memory_is_taken(http_store, start, nbytes):
    with pytest.raises(RangeAnswerError, match=f"it has {len(DATA)}"):
        read_range(http_store().open("blob"), start, nbytes)


def test_open_retried_tries_again(http_store, server):
    server.script("/model/blob", answer(503), answer(503))

    assert open_retried(http_store(), "blob", SOON).version.nbytes == len(DATA)
