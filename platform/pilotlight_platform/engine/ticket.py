"""A submitted request, as its submitter and the compute thread share it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pilotlight_platform.errors import PlatformError
from pilotlight_platform.schemas.generation import GenerationChunk, GenerationRequest

logger = logging.getLogger(__name__)

Sink = Callable[[GenerationChunk | PlatformError], None]


class Ticket:
    """Delivers chunks to a sink, then exactly one end: a last chunk, an error, or a cancel.

    Everything but `cancel` and `cancelled` belongs to the compute thread.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sink: Sink,
        *,
        arrival: int,
        on_cancel: Callable[[], None],
        on_settled: Callable[[Ticket], None],
    ) -> None:
        self.request = request
        self.arrival = arrival  # its number in the engine: older requests have lower ones
        self._sink = sink
        self._on_cancel = on_cancel
        self._on_settled = on_settled
        self._cancelled = False
        self._settled = False
        self.started = False  # the sink has got something

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Stop after the step that is running; the sink hears nothing more. Idempotent."""
        if not self._cancelled:
            self._cancelled = True
            self._on_cancel()

    def send(self, chunk: GenerationChunk) -> None:
        self._deliver(chunk)

    def finish(self, chunk: GenerationChunk) -> None:
        """The last chunk. The ticket is settled before, so who sees the chunk sees that too."""
        self.settle()
        self._deliver(chunk)

    def fail(self, error: PlatformError) -> None:
        if not self._settled:
            self.settle()
            self._deliver(error)

    def settle(self) -> None:
        """No longer ongoing, whatever the sink has got."""
        if not self._settled:
            self._settled = True
            self._on_settled(self)

    def _deliver(self, item: GenerationChunk | PlatformError) -> None:
        if self._cancelled:
            return
        self.started = True
        try:
            self._sink(item)
        except Exception:  # a foreign callback: its failure means that nobody listens any more
            logger.exception("sink_failed request_id=%s", self.request.request_id)
            self._cancelled = True
