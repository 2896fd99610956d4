from __future__ import annotations

import re
import socket
import threading
import time

import pytest
from support.object_server import (
    ObjectServer,
    answer,
    chunked,
    close_connection,
    close_early,
    content_range,
    drip,
    extra_headers,
    ignore_if_match,
    ignore_range,
    never_answer,
    redirect,
    stall,
)
from support.reading import DATA, read, read_with, reader_of
from support.waiting import until

from pilotlight_loader.errors import (
    AccessDeniedError,
    LocationError,
    ObjectChangedError,
    ObjectMissingError,
    RangeAnswerError,
    ReadAbortedError,
    SourceReadError,
    TransientReadError,
)
from pilotlight_loader.sources import http_connection
from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.http_exchange import MAX_REDIRECTS, network_error
from pilotlight_loader.sources.location import parse_location

MODIFIED = "Tue, 01 Sep 2026 10:00:00 GMT"
LATER = "Wed, 02 Sep 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("start", "nbytes"),
    [(0, 1), (0, len(DATA)), (12345, 200_000), (len(DATA) - 1, 1), (7, 8192), (7, 8193)],
)
def test_http_reads_a_range(http_store, start, nbytes):
    assert read(http_store().open("blob"), start, nbytes) == DATA[start : start + nbytes]


def test_http_pins_size_and_etag(http_store):
    version = http_store().open("blob").version

    assert (version.nbytes, version.etag) == (len(DATA), '"one"')


def test_http_sends_the_pinned_etag_with_every_range(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    read_with(reader, 0, 10)
    read_with(reader, 10, 10)

    assert [seen.headers.get("if-match") for seen in server.requests] == [None, '"one"', '"one"']
    assert server.requests[2].headers["range"] == "bytes=10-19"


def test_http_asks_for_no_encoding(http_store, server):
    http_store().open("blob")

    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_http_sends_the_headers_of_its_options(http_store, server):
    read(http_store(headers={"Authorization": "Bearer t"}).open("blob"), 0, 1)

    assert [seen.headers["authorization"] for seen in server.requests] == ["Bearer t"] * 2


def test_http_authorizes_with_user_and_password_of_the_url(server, owned):
    location = parse_location(server.url.replace("//", "//user:p%40ss@") + "/model")
    owned.enter_context(HttpStore(location)).open("blob")

    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"


def test_http_keeps_a_signature_and_shows_it_nowhere(http_store, server):
    with pytest.raises(ObjectMissingError) as caught:
        http_store("/model?sig=secret").open("absent")

    assert server.requests[0].path == "/model/absent?sig=secret"
    assert "secret" not in str(caught.value)


def test_http_quotes_what_a_url_may_not_hold(http_store, server):
    server.put("/mod%C3%A8l%20x%41/blob", DATA)
    http_store("/modèl x%41?a=b c%20d").open("blob")

    assert server.requests[0].path == "/mod%C3%A8l%20x%41/blob?a=b%20c%20d"


def test_http_quotes_names(http_store, server):
    server.put("/model/a%20b%3Fc", DATA)

    assert http_store().open("a b?c").version.nbytes == len(DATA)


def test_http_uses_one_connection_for_all_that_follows(http_store, server):
    source = http_store().open("blob")
    read(source, 0, 10)
    read(source, 10, 10)

    assert len(server.connections) == 1


def test_http_reconnects_where_the_server_closed_an_idle_connection(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    read_with(reader, 0, 10)
    server.hang_up()

    assert read_with(reader, 10, 10) == DATA[10:20]
    assert len(server.connections) == 2


def test_http_reads_in_parallel(http_store):
    source = http_store().open("blob")
    parts: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda at=at: parts.update({at: read(source, at, 50_000)}))
        for at in range(0, len(DATA), 50_000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert b"".join(parts[at] for at in sorted(parts)) == DATA


def test_http_empty_object_has_no_bytes(http_store, server):
    server.put("/model/empty", b"")
    source = http_store().open("empty")

    assert source.version.nbytes == 0
    assert read(source, 0, 0) == b""


@pytest.mark.parametrize(("start", "nbytes"), [(-1, 1), (len(DATA), 1), (0, len(DATA) + 1)])
def test_http_refuses_a_range_outside_without_asking(http_store, server, start, nbytes):
    source = http_store().open("blob")

    with pytest.raises(RangeAnswerError, match=f"it has {len(DATA)}"):
        read(source, start, nbytes)
    assert len(server.requests) == 1


# What the object's version is known by.


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


# Answers that are not what was asked for.


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


# Statuses.


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


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_http_redirect_is_followed(http_store, server, status):
    server.script("/model/link", redirect("blob", status))

    assert http_store().open("link").version.nbytes == len(DATA)


def test_http_redirect_is_followed_once_for_all_ranges(http_store, server):
    server.always = None
    server.script("/model/link", redirect("/model/blob"))
    source = http_store().open("link")
    read(source, 0, 10)
    read(source, 10, 10)

    paths = [seen.path for seen in server.gets]
    assert paths == ["/model/link", *["/model/blob"] * 3]


@pytest.mark.parametrize("status", [403, 404])
def test_http_redirect_that_has_expired_is_asked_for_again(http_store, server, status):
    server.script("/model/link", redirect("blob?sig=old"), redirect("blob?sig=new"))
    source = http_store().open("link")
    server.script("/model/blob", answer(status))

    assert read(source, 0, 10) == DATA[:10]
    assert server.requests[-1].path == "/model/blob?sig=new"


def test_http_redirect_elsewhere_takes_no_credentials_along(http_store, server, other_server):
    other_server.put("/cdn", DATA)
    server.script("/model/link", redirect(f"{other_server.url}/cdn?sig=1"))
    source = http_store(headers={"Authorization": "Bearer t", "X-Key": "k"}).open("link")
    read(source, 0, 10)

    assert [seen.path for seen in other_server.requests] == ["/cdn?sig=1"] * 2
    assert not {"authorization", "x-key"} & other_server.requests[0].headers.keys()


def test_http_redirect_in_place_takes_credentials_along(http_store, server):
    server.script("/model/link", redirect("blob"))
    http_store(headers={"Authorization": "Bearer t"}).open("link")

    assert server.requests[1].headers["authorization"] == "Bearer t"


def test_http_redirects_in_a_circle_end(http_store, server):
    server.always = redirect("blob")

    with pytest.raises(RangeAnswerError, match=f"more than {MAX_REDIRECTS} redirects"):
        http_store().open("blob")


@pytest.mark.parametrize("to", ["ftp://host/x?sig=secret", "http://host:port/?sig=secret"])
def test_http_redirect_to_what_is_no_http_is_refused(http_store, server, to):
    server.always = redirect(to)

    with pytest.raises(RangeAnswerError, match="redirected to") as caught:
        http_store().open("blob")
    assert "secret" not in str(caught.value)


# Time, and aborting.


def test_http_silence_is_transient(http_store, server):
    source = http_store(silence_timeout_s=0.1).open("blob")
    server.always = stall

    with pytest.raises(TransientReadError, match="timed out"):
        read(source, 0, 1000)


def test_http_answer_that_comes_too_late_is_not_taken_for_the_next(http_store, server, owned):
    reader = reader_of(http_store(silence_timeout_s=0.2).open("blob"), owned)
    server.script("/model/blob", never_answer)
    with pytest.raises(TransientReadError):
        read_with(reader, 0, 10)

    assert read_with(reader, 10, 10) == DATA[10:20]
    assert len(server.connections) == 2


def test_http_dripping_body_is_cut_off(http_store, server, monkeypatch):
    monkeypatch.setattr(http_connection, "MIN_BYTES_PER_S", 1_000_000)
    source = http_store(silence_timeout_s=0.2).open("blob")
    server.always = drip

    with pytest.raises(TransientReadError, match="slower than"):
        read(source, 0, 100_000)


def test_http_refused_connection_is_transient(owned):
    with ObjectServer() as server:
        server.put("/blob", DATA)
        source = owned.enter_context(HttpStore(parse_location(server.url))).open("blob")

    with pytest.raises(TransientReadError, match="Connection"):
        read(source, 0, 10)


def test_network_error_names_a_host_that_is_none():
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert isinstance(network_error(error, "there"), LocationError)


def test_network_error_of_a_resolver_in_trouble_is_transient():
    error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    assert isinstance(network_error(error, "there"), TransientReadError)


@pytest.mark.parametrize("behaviour", [stall, never_answer])
def test_http_abort_ends_a_read_that_runs(http_store, server, owned, behaviour):
    reader = reader_of(http_store(silence_timeout_s=60.0).open("blob"), owned)
    server.always = behaviour
    errors: list[Exception] = []

    def run() -> None:
        try:
            read_with(reader, 0, 1000)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(server.requests) == 2)
    reader.abort()
    thread.join(5)

    assert [type(error) for error in errors] == [ReadAbortedError]


def test_http_reader_that_was_aborted_asks_no_more(http_store, server, owned):
    reader = reader_of(http_store().open("blob"), owned)
    reader.abort()

    with pytest.raises(ReadAbortedError):
        read_with(reader, 0, 10)
    assert len(server.requests) == 1


def test_http_abort_leaves_other_readers_alone(http_store, owned):
    source = http_store().open("blob")
    first, second = reader_of(source, owned), reader_of(source, owned)
    read_with(first, 0, 10)
    first.abort()
    first.close()

    assert read_with(second, 0, 10) == DATA[:10]


def test_http_store_has_no_listing(http_store):
    assert http_store().names() is None
