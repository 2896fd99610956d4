from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.object_server import ObjectServer, never_answer, redirect
from support.reading import DATA, read
from support.waiting import until

from pilotlight_loader.errors import AccessDeniedError, RangeAnswerError, ReadAbortedError
from pilotlight_loader.sources.http import HttpStore
from pilotlight_loader.sources.http_connection import (
    MAX_IDLE_CONNECTIONS,
    Connection,
    ConnectionPool,
    Origin,
    Timeouts,
)
from pilotlight_loader.sources.http_object import HttpOptions
from pilotlight_loader.sources.location import parse_location


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ObjectServer(tls=context) as running:
        running.put("/model/blob", DATA)
        yield running


@pytest.fixture
def trusting(certificate) -> HttpOptions:
    return HttpOptions(tls=ssl.create_default_context(cafile=certificate))


def in_thread(action) -> tuple[threading.Thread, list[Exception]]:
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_https_reads_a_range(tls_server, trusting, owned):
    location = parse_location(tls_server.url + "/model")
    source = owned.enter_context(HttpStore(location, trusting)).open("blob")

    assert read(source, 1000, 200_000) == DATA[1000:201_000]


def test_https_certificate_that_nobody_vouches_for_is_refused(tls_server, owned):
    store = owned.enter_context(HttpStore(parse_location(tls_server.url + "/model")))

    with pytest.raises(AccessDeniedError, match="certificate"):
        store.open("blob")


def test_https_is_never_left_by_a_redirect(tls_server, trusting, server, owned):
    tls_server.script("/model/blob", redirect(f"{server.url}/model/blob"))
    store = owned.enter_context(HttpStore(parse_location(tls_server.url + "/model"), trusting))

    with pytest.raises(RangeAnswerError, match="from https to http"):
        store.open("blob")
    assert server.requests == []


def test_https_abort_ends_a_read_that_runs(tls_server, trusting, owned):
    location = parse_location(tls_server.url + "/model")
    reader = owned.enter_context(HttpStore(location, trusting)).open("blob").reader()
    tls_server.always = never_answer
    thread, errors = in_thread(lambda: reader.read_into(0, memoryview(bytearray(10))))
    until(lambda: len(tls_server.requests) == 2)
    reader.abort()
    thread.join(5)
    reader.close()

    assert [type(error) for error in errors] == [ReadAbortedError]


def test_connection_abort_ends_a_connect_that_waits():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        # Nobody accepts: once the backlog is full, Linux drops what asks to connect.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        connection = Connection(Origin(False, "127.0.0.1", port), Timeouts(connect_s=60.0), None)
        thread, errors = in_thread(lambda: connection.ask("GET", "/", {}, time.monotonic() + 60))
        until(lambda: connection._socket is not None)
        connection.abort()
        thread.join(5)
        is_alive = thread.is_alive()
        connection.close()
        for filler in fillers:
            filler.close()

    assert not is_alive
    assert len(errors) == 1


def test_connection_that_was_aborted_before_does_not_connect(server):
    connection = Connection(Origin(False, "127.0.0.1", server.port), Timeouts(), None)
    connection.abort()

    with pytest.raises(ReadAbortedError):
        connection.ask("GET", "/", {}, time.monotonic() + 10)
    connection.close()


def test_pool_keeps_no_more_than_its_limit(server, owned):
    pool = ConnectionPool(Timeouts())
    owned.callback(pool.close)
    origin = Origin(False, "127.0.0.1", server.port)
    connections = [pool.fresh(origin) for _ in range(MAX_IDLE_CONNECTIONS + 1)]
    for connection in connections:
        connection.ask("GET", "/model/blob", {}, time.monotonic() + 10).read()
    for connection in connections:
        pool.give_back(connection)

    assert sum(connection._socket is not None for connection in connections) == (
        MAX_IDLE_CONNECTIONS
    )


def test_pool_that_was_closed_closes_what_comes_back(server):
    pool = ConnectionPool(Timeouts())
    connection = pool.take(Origin(False, "127.0.0.1", server.port))
    connection.ask("GET", "/model/blob", {}, time.monotonic() + 10).read()
    pool.close()
    pool.give_back(connection)

    assert connection._socket is None


def test_pool_closes_a_connection_whose_answer_was_not_read(server, owned):
    pool = ConnectionPool(Timeouts())
    owned.callback(pool.close)
    connection = pool.take(Origin(False, "127.0.0.1", server.port))
    connection.ask("GET", "/model/blob", {}, time.monotonic() + 10)
    pool.give_back(connection)

    assert connection._socket is None
