"""One version for all that is read over HTTP, and what is done where a server names none."""

from __future__ import annotations

import pytest
from support.object_server import (
    answer,
    close_connection,
    extra_headers,
    ignore_if_match,
    redirect,
)
from support.reading import DATA, read

from pilotlight_loader.errors import (
    ObjectChangedError,
    SourceReadError,
)

MODIFIED = "Tue, 01 Sep 2026 10:00:00 GMT"
LATER = "Wed, 02 Sep 2026 10:00:00 GMT"


def test_http_changed_object_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.put("/model/blob", b"x" * len(DATA), '"two"')

    with pytest.raises(ObjectChangedError, match="412"):
        read(source, 0, 10)


def test_http_changed_object_is_seen_where_if_match_is_ignored(http_store, server):
    source = http_store().open("blob")
    server.put("/model/blob", b"x" * len(DATA), '"two"')
    server.always = ignore_if_match

    with pytest.raises(ObjectChangedError, match='etag "one" became "two"'):
        read(source, 0, 10)


def test_http_answer_without_the_pinned_etag_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.put("/model/blob", DATA, None)
    server.always = ignore_if_match

    with pytest.raises(ObjectChangedError, match="became None"):
        read(source, 0, 10)


def test_http_shortened_object_is_a_changed_one(http_store, server):
    source = http_store().open("blob")
    server.put("/model/blob", b"short", '"two"')
    server.always = ignore_if_match

    with pytest.raises(ObjectChangedError, match="no longer has a byte 1000"):
        read(source, 1000, 10)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_http_without_a_strong_etag_pins_the_time_of_change(http_store, server, etag):
    server.put("/model/blob", DATA, etag, Last_Modified=MODIFIED)
    source = http_store().open("blob")

    assert read(source, 5, 10) == DATA[5:15]
    assert source.version.etag == MODIFIED
    assert server.requests[1].headers["if-unmodified-since"] == MODIFIED
    assert "if-match" not in server.requests[1].headers


def test_http_other_time_of_change_is_a_changed_object(http_store, server):
    server.put("/model/blob", DATA, None, Last_Modified=MODIFIED)
    source = http_store().open("blob")
    server.put("/model/blob", DATA, None, Last_Modified=LATER)

    with pytest.raises(ObjectChangedError, match="last-modified"):
        read(source, 5, 10)


@pytest.mark.parametrize(
    "head",
    [
        answer(403),
        answer(405),
        answer(501),
        answer(503),
        redirect("elsewhere"),
        extra_headers(Content_Encoding="gzip"),
        extra_headers(Accept_Ranges="none"),
        lambda handler: handler.send_answer(200, {}, b"", announced=len(DATA)),  # no version
        lambda handler: handler.send_answer(200, {"ETag": '"one"'}, b""),  # a length of 0
        close_connection,
    ],
)
def test_http_head_that_tells_nothing_is_followed_by_a_get_of_one_byte(http_store, server, head):
    server.heads["/model/blob"] = head
    source = http_store().open("blob")

    assert (source.version.nbytes, source.version.etag) == (len(DATA), '"one"')
    assert [(seen.method, seen.headers.get("range")) for seen in server.requests] == [
        ("HEAD", None),
        ("GET", "bytes=0-0"),
    ]


def test_http_pin_costs_no_byte_of_the_object(http_store, server):
    http_store().open("blob")

    assert server.sent_bytes == 0


def test_http_head_of_another_version_than_the_gets_mixes_nothing(http_store, server):
    server.heads["/model/blob"] = lambda handler: handler.send_answer(
        200, {"ETag": '"other"'}, b"", announced=len(DATA)
    )
    source = http_store().open("blob")

    with pytest.raises(ObjectChangedError, match="412"):
        read(source, 0, 10)


def test_http_head_is_left_out_on_request(http_store, server):
    http_store(pin_by_head=False).open("blob")

    assert [seen.method for seen in server.requests] == ["GET"]


def test_http_object_that_cannot_be_pinned_is_refused(http_store, server):
    server.put("/model/blob", DATA, None)

    with pytest.raises(SourceReadError, match=r"neither a strong ETag.*allow_unpinned=True"):
        http_store().open("blob")


def test_http_object_that_cannot_be_pinned_is_read_when_allowed(http_store, server):
    server.put("/model/blob", DATA, None)

    assert read(http_store(allow_unpinned=True).open("blob"), 5, 10) == DATA[5:15]
