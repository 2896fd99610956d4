from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_loader.strict_json import StrictJsonError, parse_object

relaxed = settings(deadline=None)  # the machine may be busy
DOCUMENTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    ),
    max_size=5,
)


@relaxed
@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_json_reads_what_json_writes(document, ascii_only, indent):
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)

    assert parse_object(text.encode()) == document


@relaxed
@given(st.binary(max_size=100))
def test_json_agrees_with_json_wherever_it_does_not_refuse(text):
    try:
        parsed = parse_object(b"{" + text)
    except StrictJsonError:
        return

    assert parsed == json.loads(b"{" + text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "begin with"),
        (b"[1]", "begin with"),
        (b"\xef\xbb\xbf{}", "begin with"),
        (b"{}{}", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":"\t"}', "not JSON"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\xc0\x80"}', "not UTF-8"),
        (rb'{"a":"\ud800"}', "half of a surrogate"),
        (rb'{"a":"\udc00\ud800"}', "half of a surrogate"),
        (rb'{"a":"\ud800\u0041"}', "half of a surrogate"),
        (rb'{"a":"\\\ud800"}', "half of a surrogate"),
        (rb'{"\uDBFF":1}', "half of a surrogate"),
        (b'{"a":[{"b":1,"b":1}]}', "'b' stands in it twice"),
        (rb'{"a":1,"\u0061":2}', "'a' stands in it twice"),
        (b'{"a":-0}', "-0"),
        (b'{"a":[-0]}', "-0"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b'{"a":1e400}', "too large"),
        (b'{"a":-1' + b"0" * 400 + b".0}", "too large"),
        (b'{"a":' + b"9" * 10_000 + b"}", "more than 4300 digits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_that_readers_differ_about_is_refused(text, reason):
    with pytest.raises(StrictJsonError, match=reason):
        parse_object(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":-1}', -1),
        (b'{"a":-0.0}', 0.0),
        (b'{"a-0":1,"a":0}', 0),
        (rb'{"a":"\ud83d\ude00"}', "😀"),
        (rb'{"a":"\\ud800"}', "\\ud800"),
        (rb'{"a":"\ud83d\ude00\\\ud83d\ude00"}', "😀\\😀"),
        (b'{"a":' + b"9" * 4300 + b"}", int("9" * 4300)),
        (b'{"a":1e3}', 1000.0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_next_to_what_is_refused_is_taken(text, value):
    assert parse_object(text)["a"] == value


def test_json_replaces_objects_from_the_inside():
    seen = []

    def convert(found: dict[str, object]) -> object:
        seen.append(dict(found))
        return len(seen) if "x" in found else found

    assert parse_object(b'{"a":{"x":1},"b":{"x":{"y":2}}}', convert) == {"a": 1, "b": 3}
    assert seen == [{"x": 1}, {"y": 2}, {"x": {"y": 2}}, {"a": 1, "b": 3}]


def test_json_whose_outermost_object_is_replaced_is_refused():
    with pytest.raises(StrictJsonError, match="itself"):
        parse_object(b"{}", lambda _: 1)
