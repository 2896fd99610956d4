"""A checkpoint in the arena, seen like one in a mapped file."""

from __future__ import annotations

from pilotlight_loader.arena.lease import Lease
from pilotlight_loader.baked import BakedCheckpoint
from pilotlight_loader.errors import ArenaError
from pilotlight_loader.mapping import MappedCheckpoint


def map_lease(lease: Lease, baked: BakedCheckpoint) -> MappedCheckpoint:
    """*baked*'s tensors as views of the leased image of its file; nothing is copied.

    They hold the lease: it may be closed, and ends with the last of them. Raises ArenaError where
    the lease is not of that size.
    """
    check_image(lease, baked)
    return MappedCheckpoint(baked.path, baked.tensors, baked.nbytes, lease.map_private())


def check_image(lease: Lease, baked: BakedCheckpoint) -> None:
    """Raises ArenaError where *lease* cannot be the image of *baked*'s file."""
    if lease.nbytes != baked.nbytes:
        raise ArenaError(
            f"{lease.key!r} has {lease.nbytes} bytes, {baked.path} has {baked.nbytes}: "
            "another checkpoint?"
        )
