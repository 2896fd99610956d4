"""The tokens of transformers' ``generate``, one by one, as they come."""

from __future__ import annotations

import asyncio
from typing import Any


class TokenQueue:
    """A streamer for ``generate`` that hands each token out at once.

    transformers' own holds text back until a space; that would be unfair to a first token.
    """

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        """Called by ``generate``: once with the prompt, then with each token."""
        if self._prompt_seen:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, int(value))
        self._prompt_seen = True

    def end(self) -> None:
        """Called by ``generate`` and after it, whatever happened: the stream ends once."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, None)
