"""Reading ranges over HTTP: what is asked, with which headers, on which connections."""

from __future__ import annotations

import threading

import pytest
from support.reading import DATA, read, read_with, reader_of

from pilotlight_loader.errors import (
    ObjectMissingError,
    RangeAnswerError,
)
from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.location import parse_location


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


def test_http_store_has_no_listing(http_store):
    assert http_store().names() is None
