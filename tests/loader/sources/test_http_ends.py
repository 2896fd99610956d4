"""Silence, broken connections and aborted reads over HTTP."""

from __future__ import annotations

import socket
import threading

import pytest
from support.object_server import (
    ObjectServer,
    drip,
    never_answer,
    stall,
)
from support.reading import DATA, read, read_with, reader_of
from support.waiting import until

from pilotlight_loader.errors import (
    LocationError,
    ReadAbortedError,
    TransientReadError,
)
from pilotlight_loader.sources import http_connection
from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.http_exchange import network_error
from pilotlight_loader.sources.location import parse_location


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
