"""Answers over HTTP that are not what was asked for, and statuses that are errors."""

from __future__ import annotations

import re
import time

import pytest
from support.object_server import (
    answer,
    chunked,
    close_early,
    content_range,
    extra_headers,
    ignore_range,
)
from support.reading import DATA, read, read_with, reader_of

from pilotlight_loader.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    SourceReadError,
    TransientReadError,
)


def test_http_200_for_a_range_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.always = ignore_range

    with pytest.raises(RangeAnswerError, match="ignores ranges"):
        read(source, 0, 10)


def test_http_200_for_the_whole_object_is_taken(http_store, server):
    server.always = ignore_range
    source = http_store().open("blob")

    assert read(source, 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    "text",
    [f"bytes 0-9/{len(DATA)}", f"bytes 100-108/{len(DATA)}", "bytes 100-109", "nonsense", ""],
)
def test_http_wrong_content_range_is_an_error(http_store, server, text):
    source = http_store().open("blob")
    server.always = content_range(text)

    with pytest.raises(RangeAnswerError, match=re.escape(repr(text))):
        read(source, 100, 10)


def test_http_other_total_is_a_changed_object(http_store, server):
    source = http_store().open("blob")
    server.always = content_range("bytes 100-109/200")

    with pytest.raises(ObjectChangedError, match=f"{len(DATA)} bytes became 200"):
        read(source, 100, 10)


def test_http_unknown_total_is_taken(http_store, server):
    source = http_store().open("blob")
    server.always = content_range("bytes 100-109/*")

    assert read(source, 100, 10) == DATA[100:110]


def test_http_opens_where_no_total_is_told(http_store, server):
    # RFC 9110, 14.4: "/*", as of an object that a proxy does not have as a whole.
    server.script("/model/blob", content_range("bytes 0-9/*"))
    source, beginning = http_store().open_with_beginning("blob", 10)

    assert beginning == DATA[:10]
    assert (source.version.nbytes, source.version.etag) == (len(DATA), '"one"')
    assert read(source, 100, 10) == DATA[100:110]


def test_http_opens_where_neither_a_head_nor_a_range_tells_the_total(http_store, server):
    server.heads["/model/blob"] = answer(405)
    server.script("/model/blob", content_range("bytes 0-0/*"))

    assert http_store().open("blob").version.nbytes == len(DATA)


def test_http_open_where_no_total_is_told_mixes_no_versions(http_store, server):
    def has_changed(handler) -> None:
        server.put("/model/blob", DATA, '"two"')
        handler.send_object()

    server.script("/model/blob", content_range("bytes 0-9/*"), has_changed)

    with pytest.raises(ObjectChangedError, match='"two" became "one"'):
        http_store().open_with_beginning("blob", 10)


def test_http_open_with_more_than_was_asked_for_is_an_error(http_store, server):
    server.script("/model/blob", content_range("bytes 0-19/*"))

    with pytest.raises(RangeAnswerError, match=re.escape("bytes 0-19/*")):
        http_store().open_with_beginning("blob", 10)


def test_http_encoded_body_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.always = extra_headers(Content_Encoding="gzip")

    with pytest.raises(RangeAnswerError, match="gzip-encoded"):
        read(source, 0, 10)


def test_http_body_that_ends_early_is_transient(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    server.script("/model/blob", close_early)

    with pytest.raises(TransientReadError, match="after 50000 of 100000 bytes"):
        read_with(reader, 0, 100_000)
    assert read_with(reader, 0, 100_000) == DATA[:100_000]


def test_http_chunked_body_is_taken(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    server.always = chunked()

    assert read_with(reader, 10, 20_000) == DATA[10:20_010]
    assert read_with(reader, 10, 10) == DATA[10:20]
    assert len(server.connections) == 1


def test_http_chunked_body_that_is_too_long_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.always = chunked(extra=b"more")

    with pytest.raises(RangeAnswerError, match="more than the 10 bytes"):
        read(source, 0, 10)


def test_http_wrong_length_is_an_error(http_store, server):
    source = http_store().open("blob")
    server.always = lambda handler: handler.send_answer(
        206, {"Content-Range": f"bytes 0-9/{len(DATA)}", "ETag": '"one"'}, DATA[:11]
    )

    with pytest.raises(RangeAnswerError, match="11 bytes were sent for a range of 10"):
        read(source, 0, 10)


def test_http_thing_that_is_no_http_is_transient(http_store, server):
    source = http_store().open("blob")
    server.always = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    with pytest.raises(TransientReadError):
        read(source, 0, 10)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccessDeniedError), (403, AccessDeniedError), (404, ObjectMissingError),
     (410, ObjectMissingError), (408, TransientReadError), (429, TransientReadError),
     (500, TransientReadError), (502, TransientReadError), (503, TransientReadError)],
)  # fmt: skip
def test_http_status_has_its_error(http_store, server, status, kind):
    source = http_store().open("blob")
    server.always = answer(status)

    with pytest.raises(kind, match=f"HTTP {status}"):
        read(source, 0, 10)
    with pytest.raises(kind, match=f"HTTP {status}"):
        http_store().open("blob")


def test_http_other_status_is_no_success(http_store, server):
    server.always = answer(418)

    with pytest.raises(SourceReadError, match="HTTP 418"):
        http_store().open("blob")


def test_http_error_repeats_the_code_of_an_object_store(http_store, server):
    server.always = answer(503, b"<Error><Code>SlowDown</Code></Error>")

    with pytest.raises(TransientReadError, match="503 SlowDown"):
        http_store().open("blob")


def test_http_retry_after_in_seconds_is_passed_on(http_store, server):
    server.always = answer(503, Retry_After="7")

    with pytest.raises(TransientReadError, match="retry after 7 s") as caught:
        http_store().open("blob")
    assert caught.value.retry_after_s == 7


def test_http_retry_after_a_date_is_passed_on(http_store, server):
    server.always = answer(503, Retry_After="Fri, 01 Jan 2100 00:00:00 GMT")

    with pytest.raises(TransientReadError) as caught:
        http_store().open("blob")
    assert caught.value.retry_after_s == pytest.approx(4102444800 - time.time(), abs=60)


def test_http_retry_after_nonsense_is_ignored(http_store, server):
    server.always = answer(503, Retry_After="soon")

    with pytest.raises(TransientReadError) as caught:
        http_store().open("blob")
    assert caught.value.retry_after_s is None


def test_http_reader_goes_on_after_an_error_status(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    server.script("/model/blob", answer(503))
    with pytest.raises(TransientReadError):
        read_with(reader, 0, 10)

    assert read_with(reader, 0, 10) == DATA[:10]
    assert len(server.connections) == 1
