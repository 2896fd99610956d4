"""Whoever hangs up ends what runs for them."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Disconnects:
    """ASGI middleware: cancels a request whose client has gone, wherever it waits.

    A server tells of it only to who listens, and a handler that waits for an answer does not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        was_read = asyncio.Event()  # before that, who reads the body learns of it
        answered = False

        async def reading() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                was_read.set()
            return message

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True  # from here on a server says "disconnect" to all who listen
            await send(message)

        async def watch() -> None:
            await was_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                running.cancel()

        running = asyncio.ensure_future(self._app(scope, reading, sending))
        watching = asyncio.create_task(watch())
        try:
            await asyncio.wait([running])
        finally:
            watching.cancel()
            if not running.done():  # the server itself ends this request
                running.cancel()
                await asyncio.wait([running])
        if not running.cancelled():
            running.result()
