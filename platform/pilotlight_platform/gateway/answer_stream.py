"""An answer as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.gateway.error_responses import error_body, internal_error
from pilotlight_platform.gateway.generator import Generation
from pilotlight_platform.gateway.openai_answers import Answer

logger = logging.getLogger("pilotlight.gateway")


class AnswerStream(StreamingResponse):
    """Streams a generation and closes it however the response ends, even before it began."""

    def __init__(
        self, generation: Generation, answer: Answer, *, usage: bool, headers: dict[str, str]
    ) -> None:
        self._generation = generation
        super().__init__(
            _events(generation, answer, usage=usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generation.close()


async def _events(generation: Generation, answer: Answer, *, usage: bool) -> AsyncIterator[str]:
    request_id = generation.timeline.request_id
    later: dict[str, Any] = {"usage": None} if usage else {}
    try:
        # One write: the role of a chat's opening must not arrive before the first token.
        pending = [_event(event | later) for event in answer.opening()]
        async for chunk in generation.chunks():
            pending.append(_event(answer.event(chunk) | later))
            generation.mark_first_byte()
            yield "".join(pending)
            pending.clear()
        if usage:
            yield _event(answer.usage_event(generation.timeline))
    except PlatformError as error:
        logger.warning("stream_failed id=%s %s", request_id, error.message)
        yield _event(error_body(error))
        return
    except Exception:
        logger.exception("stream_failed id=%s", request_id)
        yield _event(error_body(internal_error(request_id)))
        return
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
