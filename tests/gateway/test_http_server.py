"""The gateway's server on a lent socket, and what becomes of requests whose client hangs up."""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from support.waiting import next_turn, until_true

from pilotlight_platform.gateway import bounded_protocol
from pilotlight_platform.gateway.disconnects import Disconnects
from pilotlight_platform.gateway.http_server import HttpServer

TIMEOUT_S = 10.0
OK = b"HTTP/1.1 200"
CHUNKED = b"POST /quick HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Handlers:
    """Answers at once, for ever, or never; notes how it ended."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.how: list[str] = []

    async def quick(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body() or b"empty")

    async def never(self, request: Request) -> PlainTextResponse:
        await request.body()
        await self._hang()
        raise AssertionError

    async def forever(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "first"
            await self._hang()

        return StreamingResponse(pieces())

    async def flood(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await next_turn()
            except asyncio.CancelledError:
                self.how.append("cancelled")
                raise
            finally:
                self.ended.set()

        return StreamingResponse(pieces())

    async def _hang(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.how.append("cancelled")
            raise
        finally:
            self.ended.set()


@asynccontextmanager
async def served(handlers: Handlers, grace_s: int = 1) -> AsyncIterator[tuple[HttpServer, str]]:
    routes = [
        Route(f"/{name}", getattr(handlers, name), methods=["GET", "POST"])
        for name in ("quick", "never", "forever", "flood")
    ]
    server = HttpServer(Disconnects(Starlette(routes=routes)), grace_s)
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    server.start(listening)
    try:
        yield server, f"http://{host}:{port}"
    finally:
        await server.stop()


def run(
    test: Callable[[Handlers, HttpServer, httpx.AsyncClient], Awaitable[None]], grace_s: int = 1
) -> None:
    async def main() -> None:
        handlers = Handlers()
        async with (
            served(handlers, grace_s) as (server, url),
            httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http,
        ):
            await test(handlers, server, http)

    asyncio.run(asyncio.wait_for(main(), 3 * TIMEOUT_S))


async def leave_after_start(handlers: Handlers, request: Awaitable[object]) -> None:
    asking = asyncio.ensure_future(request)
    await asyncio.wait_for(handlers.started.wait(), TIMEOUT_S)
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.wait_for(handlers.ended.wait(), TIMEOUT_S)


def test_server_answers_with_what_it_was_sent() -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        assert (await http.get("/quick")).text == "empty"
        big = "x" * 300_000  # in several pieces
        assert (await http.post("/quick", content=big)).text == big
        assert server.alive

    run(test)


@pytest.mark.parametrize("path", ["/never", "/forever"])
def test_client_that_hangs_up_ends_its_request(path: str) -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        await leave_after_start(handlers, http.post(path, content="x"))

        assert handlers.how == ["cancelled"]
        assert (await http.get("/quick")).status_code == 200

    run(test)


def test_server_that_stops_ends_what_outlives_its_grace() -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        asking = asyncio.ensure_future(http.post("/never", content="x"))
        await asyncio.wait_for(handlers.started.wait(), TIMEOUT_S)
        await asyncio.wait_for(server.stop(), TIMEOUT_S)

        assert handlers.how == ["cancelled"]
        assert not server.alive
        outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
        assert isinstance(outcome, httpx.TransportError) or outcome.status_code == 500

    run(test, grace_s=1)


def test_server_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        await http.get("/quick")
        assert threading.current_thread() is threading.main_thread()
        assert signal.getsignal(signal.SIGTERM) is before

    run(test)


async def answer_to(url: str, *parts: bytes) -> bytes:
    """What a server says to who sends these, until it hangs up."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), TIMEOUT_S)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def ask_quick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The answer to one request on a connection that stays open."""
    writer.write(b"GET /quick HTTP/1.1\r\n\r\n")
    return await asyncio.wait_for(reader.readuntil(b"empty"), TIMEOUT_S)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET /quick HTTP/1.1\r\nHost: x\r\nA: ", b"HTTP/1.1 408 "),
        (b"POST /quick HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 408 "),
        (b"POST /quick HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf", b"HTTP/1.1 408 "),
        (b"GET /quick HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "half a header", "half a body", "half the chunks", "a body nobody reads"],
)
def test_server_hangs_up_on_a_request_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(bounded_protocol, "_PATIENCE_S", 0.2)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        with closing(writer):
            assert (await ask_quick(reader, writer))[:12] == OK

            assert (await answer_to(str(http.base_url), sent)).startswith(answer)
            # The older connection has lasted as long: a request that was answered is not late.
            assert (await ask_quick(reader, writer))[:12] == OK
            assert (await http.get("/quick")).status_code == 200

    run(test)


@pytest.mark.parametrize(
    "then", [b"\r\n", b"GET /quick HTTP/1.1\r\n"], ids=["a line", "half a request"]
)
def test_server_hangs_up_on_a_second_request_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, then: bytes
) -> None:
    monkeypatch.setattr(bounded_protocol, "_PATIENCE_S", 0.2)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        assert (await ask_quick(reader, writer))[:12] == OK
        writer.write(then)

        assert (await asyncio.wait_for(reader.read(), TIMEOUT_S))[:12] == b"HTTP/1.1 408"
        writer.close()

    run(test)


def test_server_waits_for_a_body_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(bounded_protocol, "_SLOWEST_BYTES_PER_S", 10)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"piece"
            await asyncio.sleep(0.1)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        assert (await http.post("/quick", content=slowly())).text == 8 * "piece"

    run(test)


@pytest.mark.parametrize(
    "endless",
    [
        [b"GET /quick HTTP/1.1\r\nA: ", *[b"x" * 65536] * 200],
        [CHUNKED + b"1;", *[b"x" * 65536] * 200],
        [CHUNKED + b"1\r\nx\r\n0\r\nA: ", *[b"x" * 65536] * 200],
        [CHUNKED + b"1\r\nx\r\n0\r\n", *[b"A: x\r\n" * 8192] * 200],
    ],
    ids=["header", "size of a chunk", "trailer", "trailers"],
)
def test_server_hangs_up_on_framing_that_does_not_end(endless: list[bytes]) -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        answer = await answer_to(str(http.base_url), *endless)
        assert answer[:12] in (b"", b"HTTP/1.1 431", b"HTTP/1.1 400")

    run(test)


def test_server_ends_a_stream_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "_PATIENCE_S", 0.2)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        with socket.create_connection((http.base_url.host, http.base_url.port)) as deaf:
            deaf.sendall(b"GET /flood HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(handlers.ended.wait(), TIMEOUT_S)

        assert handlers.how == ["cancelled"]

    run(test)


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
def test_client_with_a_second_request_on_its_way_hangs_up(apart: bool) -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        first, second = b"GET /never HTTP/1.1\r\n\r\n", b"GET /quick HTTP/1.1\r\n\r\n"
        _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(first if apart else first + second)
        await asyncio.wait_for(handlers.started.wait(), TIMEOUT_S)
        if apart:
            writer.write(second)
            await writer.drain()
            assert (await http.get("/quick")).status_code == 200  # the server has read it
        writer.close()
        await asyncio.wait_for(handlers.ended.wait(), TIMEOUT_S)

        assert handlers.how == ["cancelled"]

    run(test)


def test_server_answers_the_first_of_two_requests_and_hangs_up() -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        answer = await answer_to(str(http.base_url), 2 * b"GET /quick HTTP/1.1\r\n\r\n")

        assert answer.count(b"HTTP/1.1 200") == 1
        assert b"\r\nconnection: close\r\n" in answer

    run(test)


def test_server_answers_an_upgrade_as_any_request_and_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
        for _ in range(2):
            assert (await http.get("/quick", headers=upgrade)).text == "empty"
            assert (await http.post("/quick", headers=upgrade, content="body")).text == "body"
        assert (await answer_to(str(http.base_url), b"\x16\x03\x01 no HTTP"))[:12] == (
            b"HTTP/1.1 400"
        )

    run(test)

    assert not caplog.records


@pytest.mark.parametrize("target", [b"/quick", b"http://a/quick"])
def test_server_answers_connect_once(target: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        request = b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\n" % target
        answer = await answer_to(str(http.base_url), request)
        assert answer.count(b"HTTP/1.1") == 1
        assert answer[9:12] in (b"404", b"405")
        assert (await http.get("/quick")).text == "empty"

    run(test)

    assert not caplog.records


def test_server_takes_a_body_that_comes_with_its_headers() -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        for _ in range(3):  # on one connection
            body = "y" * 1_000_000
            assert (await http.post("/quick", content=body)).text == body

    run(test)


def test_server_whose_app_does_not_start_is_not_alive() -> None:
    async def main() -> None:
        server = HttpServer(_Broken(), 1)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server.start(listening)
            await until_true(lambda: not server.alive, TIMEOUT_S)
            await server.stop()

    asyncio.run(main())


class _Broken:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no log directory"})
