from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_platform.engine.stop import StopBuffer

PIECES = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


def stream(stops, pieces):
    buffer = StopBuffer(stops)
    text = "".join(buffer.feed(piece) for piece in pieces)
    return (text if buffer.stopped else text + buffer.flush()), buffer.stopped


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["one EN", "D two"], "one "),
        (["one E", "N", "D"], "one "),
        (["END"], ""),
        (["one EN two"], "one EN two"),
        (["one EN"], "one EN"),
    ],
)
def test_stop_string_is_found_across_pieces(pieces, shown):
    assert stream(("END",), pieces)[0] == shown


def test_text_is_held_back_only_while_it_may_become_a_stop_string():
    buffer = StopBuffer(("END",))

    assert buffer.feed("one E") == "one "
    assert buffer.feed("N") == ""
    assert buffer.feed("o") == "ENo"


def test_nothing_comes_after_the_stop_string():
    buffer = StopBuffer(("x",))

    assert buffer.feed("axb") == "a"
    assert buffer.feed("c") == ""
    assert buffer.flush() == ""


def test_without_stop_strings_text_passes():
    assert StopBuffer(()).feed("text") == "text"


@given(STOPS, PIECES)
def test_pieces_do_not_matter(stops, pieces):
    assert stream(stops, pieces) == stream(stops, list("".join(pieces)))


@given(STOPS, PIECES)
def test_shown_text_is_a_prefix_without_any_stop_string(stops, pieces):
    shown, stopped = stream(stops, pieces)

    assert "".join(pieces).startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in "".join(pieces) for stop in stops)


@given(STOPS, PIECES)
def test_what_is_shown_only_grows(stops, pieces):
    buffer = StopBuffer(stops)
    shown = [""]
    for piece in pieces:
        shown.append(shown[-1] + buffer.feed(piece))

    assert all(after.startswith(before) for before, after in pairwise(shown))
