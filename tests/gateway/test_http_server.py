"""The gateway's server on a lent socket, and what becomes of requests whose client hangs up."""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pilotlight_platform.gateway import bounded_protocol
from pilotlight_platform.gateway.disconnects import Disconnects
from pilotlight_platform.gateway.http_server import HttpServer

TIMEOUT_S = 10.0


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
        for name in ("quick", "never", "forever")
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


async def closed_by_the_server(url: str, *parts: bytes) -> bool:
    """Whether the server hangs up on who sends these, waiting a little after each."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
    except ConnectionError:
        return True
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /quick HTTP/1.1\r\nHost: x\r\nA: "])
def test_server_hangs_up_on_headers_that_do_not_come(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(bounded_protocol, "_HEAD_TIMEOUT_S", 0.2)

    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        assert await closed_by_the_server(str(http.base_url), sent)
        await asyncio.sleep(0.3)  # a request that was answered is not counted as late
        assert (await http.get("/quick")).status_code == 200

    run(test)


def test_server_hangs_up_on_headers_that_do_not_end() -> None:
    async def test(handlers: Handlers, server: HttpServer, http: httpx.AsyncClient) -> None:
        endless = [b"GET /quick HTTP/1.1\r\nA: ", *[b"x" * 65536] * 200]
        assert await closed_by_the_server(str(http.base_url), *endless)

    run(test)


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
            async with asyncio.timeout(TIMEOUT_S):
                while server.alive:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await server.stop()

    asyncio.run(main())


class _Broken:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no log directory"})
