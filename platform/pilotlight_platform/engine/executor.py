"""The compute thread of a worker."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Self
from weakref import WeakSet

import torch

from pilotlight_loader import kernel_layout
from pilotlight_platform.engine.cache_room import CacheRoom
from pilotlight_platform.engine.lane import Lane
from pilotlight_platform.engine.replica import Replica
from pilotlight_platform.engine.ticket import Sink, Ticket
from pilotlight_platform.errors import EngineError, PlatformError, ReplicaGoneError
from pilotlight_platform.schemas.generation import GenerationRequest

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 10.0


class Engine:
    """Runs every replica of a worker on one thread, in turns.

    One thread, because each thread that calls torch gets an OpenMP pool of its own, and pools that
    share the cores make each other about ten times slower (for the others: openmp.compute_alone).
    All state of the requests belongs to that thread; the others only post messages to its inbox.
    """

    def __init__(
        self, threads: int, max_batch: int = 8, cache_limit_bytes: int | None = None
    ) -> None:
        """*cache_limit_bytes*: keys and values of all requests together; None: no limit."""
        self._threads = threads
        self._max_batch = max_batch
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._arrivals = itertools.count()
        self._room = CacheRoom(cache_limit_bytes)  # the compute thread's
        self._lanes: dict[Replica, Lane] = {}  # the compute thread's
        self._running = True  # the compute thread's
        self._lock = threading.Lock()  # guards the three below, and the order of the inbox
        self._ongoing: Counter[Replica] = Counter()
        self._dropped: WeakSet[Replica] = WeakSet()
        self._closed = False
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pilotlight-engine", daemon=True)

    def start(self) -> None:
        """Start the compute thread; returns once its OpenMP pool is up."""
        self._thread.start()
        self._warm.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Fail what is left and end the thread; false if it is still in a forward pass by then."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inbox.put(self._stop)
        if self._thread.ident is not None and not self._is_compute_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._thread.is_alive()

    def submit(self, replica: Replica, request: GenerationRequest, sink: Sink) -> Ticket:
        """Queue *request*; *sink* is called on the compute thread and must not block.

        Whatever goes wrong reaches the sink, once, as a `PlatformError`.
        """
        with self._lock:
            ticket = Ticket(
                request,
                sink,
                arrival=next(self._arrivals),  # in the order of the inbox
                on_cancel=partial(self._inbox.put, _wake),
                on_settled=partial(self._settled, replica),
            )
            refusal = self._refusal(replica)
            self._ongoing[replica] += 1
            if refusal is None:
                self._inbox.put(partial(self._admit, replica, ticket))
        if refusal is not None:
            ticket.fail(refusal)
        return ticket

    def ongoing(self, replica: Replica) -> int:
        """Requests that are waiting or running on *replica*."""
        with self._lock:
            return self._ongoing[replica]

    def drop(self, replica: Replica) -> None:
        """Fail what is left on *replica* and accept no more of it.

        Returns at once: `Replica.detach` waits for the forward pass that may be running.
        """
        with self._lock:
            self._dropped.add(replica)
            if not self._closed:
                self._inbox.put(partial(self._drop, replica))

    def _refusal(self, replica: Replica) -> PlatformError | None:
        if self._closed:
            return EngineError("the engine is closed")
        if replica in self._dropped:
            return ReplicaGoneError("the replica has been dropped")
        return None

    def _settled(self, replica: Replica, _ticket: Ticket) -> None:
        with self._lock:
            self._ongoing[replica] -= 1
            if not self._ongoing[replica]:
                del self._ongoing[replica]

    def _is_compute_thread(self) -> bool:
        return threading.current_thread() is self._thread

    # The rest runs on the compute thread.

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        _warm_up()
        self._warm.set()
        with torch.inference_mode():
            while self._running:
                self._read_inbox()
                for replica, lane in list(self._lanes.items()):
                    if self._running and lane.busy and self._lanes.get(replica) is lane:
                        self._guarded(replica, lane.turn)
                        self._make_room()
                        self._read_inbox()
        for lane in self._lanes.values():
            lane.fail_all(lambda _ticket: EngineError("the engine was closed"))
        self._lanes.clear()

    def _guarded(self, replica: Replica, work: Callable[[], None]) -> None:
        """Do *work* of the replica's lane; what it raises is that lane's failure alone."""
        try:
            work()
        except ReplicaGoneError:  # detached without having been dropped
            self._drop(replica)
        except Exception as error:  # a bug of ours, or no memory: the thread lives on
            logger.exception("turn_failed")
            message = f"the engine failed: {type(error).__name__}: {error}"
            self._lanes[replica].fail_all(lambda _ticket: EngineError(message))

    def _make_room(self) -> None:
        """Pause the youngest requests until keys and values fit; the oldest goes on in any case."""
        if self._room.overfull:
            for replica, lane in list(self._lanes.items()):
                self._guarded(replica, lane.reap)
        while self._room.overfull:
            lanes = {replica: lane for replica, lane in self._lanes.items() if lane.running}
            if sum(lane.running for lane in lanes.values()) < 2:
                return
            replica = max(lanes, key=lambda replica: lanes[replica].youngest)
            self._guarded(replica, lanes[replica].pause_youngest)

    def _read_inbox(self) -> None:
        """Handle what was posted; wait for something if there is no work."""
        idle = not any(lane.busy for lane in self._lanes.values())
        while True:
            try:
                message = self._inbox.get(block=idle and self._running)
            except queue.Empty:
                return
            message()
            idle = False

    def _admit(self, replica: Replica, ticket: Ticket) -> None:
        if replica not in self._lanes:
            self._lanes[replica] = Lane(replica, self._max_batch, self._room)
        self._lanes[replica].add(ticket)

    def _drop(self, replica: Replica) -> None:
        lane = self._lanes.pop(replica, None)
        if lane is not None:
            lane.fail_all(_gone)

    def _stop(self) -> None:
        self._running = False


def _gone(ticket: Ticket) -> PlatformError:
    if ticket.started:  # part of the answer is out: routing it again would repeat that part
        return EngineError("the replica was dropped while it answered")
    return ReplicaGoneError("the replica was dropped before it answered")


def _wake() -> None:
    """Posted for its own sake: the compute thread looks at its lanes again."""


def _warm_up() -> None:
    """Start this thread's OpenMP pool and load the matrix kernels, off the cold path.

    kernel_id() multiplies once to try itself: here, where there is a pool already.
    """
    kernel_layout.kernel_id()
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(512, 512, dtype=dtype)
        torch.nn.functional.linear(square, square)
