"""How many replicas a model wants, from its demand alone."""

from __future__ import annotations

import math

from pilotlight_autoscaler.config import AutoscalingConfig


def desired_replicas(config: AutoscalingConfig, queued: int, ongoing: int) -> int:
    """Replicas that bring each to its target, within the bounds; any demand wants at least one.

    With a target of 5.6, 6 requests want 2 replicas.
    """
    return _replicas_for(queued + ongoing, config.target, config)


def occupied_replicas(config: AutoscalingConfig, queued: int, ongoing: int) -> int:
    """Replicas that an eviction must leave: what the demand fills, without the target's headroom.

    Queued requests are about to enter the replicas, so with any of them nothing is headroom.
    """
    if queued > 0:
        return desired_replicas(config, queued, ongoing)
    return _replicas_for(ongoing, config.max_ongoing_requests, config)


def _replicas_for(demand: int, per_replica: float, config: AutoscalingConfig) -> int:
    # Bounded before rounding (a tiny target divides to infinity); a hair less than the quotient, so
    # that 28 / 5.6 = 5.000000000000001 is 5.
    wanted = math.ceil(min(demand / per_replica, config.max_replicas) * (1 - 1e-9))
    return max(config.min_replicas, wanted)
