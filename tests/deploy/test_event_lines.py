"""Event streams cut anywhere."""

import pytest

from pilotlight_deploy.event_lines import BrokenStreamError, iter_lines, iter_sse_objects


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_may_be_cut_anywhere(size):
    data = 'data: {"a": "é\u2028"}\r\n\r\n: comment\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'.encode()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]

    assert list(iter_sse_objects(iter_lines(chunks))) == [{"a": "é\u2028"}, {"b": 2}]


@pytest.mark.parametrize(
    "data", [b"", b'data: {"a": 1}\n\n', b"data: nonsense\n\n", b"data: [1]\n\n"]
)
def test_broken_stream_is_told(data):
    with pytest.raises(BrokenStreamError):
        list(iter_sse_objects(iter_lines([data])))


def test_endless_line_is_refused():
    with pytest.raises(BrokenStreamError, match="longer than 16 MiB"):
        list(iter_lines([b"x" * (1 << 20)] * 17))
