"""What tests of the cache do again and again."""

from __future__ import annotations

from pilotlight_loader.cache.cache import Cache
from pilotlight_loader.cache.filling import Filling
from pilotlight_loader.cache.identity import ObjectIdentity


def small(name: str, content: bytes = b"some bytes", etag: str = "v1") -> ObjectIdentity:
    return ObjectIdentity(f"s3://bucket/{name}", etag, len(content))


def begin(cache: Cache, identity: ObjectIdentity) -> Filling:
    filling = cache.begin(identity)
    assert filling is not None
    return filling


def publish(cache: Cache, identity: ObjectIdentity, content: bytes | memoryview) -> str:
    """Put *content* into the cache; its digest."""
    with begin(cache, identity) as filling:
        write_missing(filling, memoryview(content))
        with filling.publish() as lease:
            return lease.digest


def write_missing(filling: Filling, data: memoryview) -> None:
    for gap in filling.missing():
        filling.write(gap.start, data[gap.start : gap.end], lambda: None)
