"""What a policy answers: what to do now, why, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What fired, or what held an action back."""

    FROM_ZERO = "from_zero"  # a queue and no replica
    LOAD = "load"  # the stable window wants more
    PANIC = "panic"  # the panic window wants far more, or the queue is too old
    QUEUE = "queue"  # requests would still wait when another replica is ready
    FLOOR = "floor"  # min_replicas, or a schedule
    PREWARM = "prewarm"  # the gaps say that a request is due
    DEPLOY = "deploy"  # a revision has gone live, and its first replica is asked for
    IDLE = "idle"  # idle for as long as it pays
    OBSOLETE = "obsolete"  # no model lists its revision
    SURPLUS = "surplus"  # more replicas than the load has needed for long
    EVICT = "evict"  # the least valuable of the idle makes room for a queue
    HOLDS = "holds"  # has what it needs, and keeps it
    GUARD = "guard"  # another replica would come too late for the queue
    UNPLACED = "unplaced"  # wants a replica that no worker can take
    RETRY = "retry"  # waits after a failed attach
    REST = "rest"  # at zero, nothing asked
    POOL = "pool"  # how many workers


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was done, or not; *text* has the inputs and what would have been needed."""

    subject: str  # a model's name; "" for the pool
    rule: Rule
    text: str
    inputs: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach a model's revision to a worker, after detaching the named idle revisions from it."""

    model: str
    revision_id: str
    worker_id: str
    evict: tuple[str, ...]  # revision ids; each must be ready and idle when it goes
    reason: Reason

    @property
    def prewarm(self) -> bool:
        """Whether nobody waits for it yet."""
        return self.reason.rule is Rule.PREWARM


@dataclass(frozen=True, slots=True)
class Detach:
    """Detach an idle revision from a worker."""

    model: str
    revision_id: str
    worker_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Drain:
    """Send a busy replica no new requests, and detach it when its last stream has ended."""

    model: str
    revision_id: str
    worker_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A model that lacks a replica, and why no worker could take it."""

    model: str
    reason: str
    permanent: bool  # larger than every worker: waiting will not help


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """How many worker processes there should be, and which empty ones may go first."""

    workers: int
    spare: tuple[str, ...]  # ids of workers that hold nothing, longest empty first
    reason: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and when to look again if nothing happens before.

    Attaches to one worker are in order: a later one may use what an earlier one's evictions free.
    """

    attach: tuple[Attach, ...] = ()
    detach: tuple[Detach, ...] = ()
    drain: tuple[Drain, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()  # all of them, not only the new ones
    pool: PoolTarget | None = None  # when it has changed since the last decision
    reasons: tuple[Reason, ...] = ()  # of models that did nothing, when the rule has changed
    wake_at_s: float | None = None
