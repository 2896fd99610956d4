"""What this machine's links were measured to give: ``<home>/links.json``, written by the doctor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Link:
    bytes_per_s: _Rate
    measured_bytes: int  # 0: unknown
    how: str


@dataclass(frozen=True, slots=True)
class StoreLink:
    """An object store, web server or the hub; its place is a host or bucket, never a path of it."""

    bytes_per_s: _Rate
    measured_bytes: int
    how: str
    first_byte_s: float  # over a new connection
    measured_at_s: float  # Unix time


@dataclass(frozen=True, slots=True)
class Links:
    measured_at_s: float  # Unix time
    memory: Link  # one core
    disk: Link
    memory_all: Link | None = None  # all cores; None in files of older versions
    device: Link | None = None  # host to the first GPU
    stores: Mapping[str, StoreLink] = field(default_factory=dict)  # by place, as s3://bucket

    def floors(self, place: str | None = None) -> dict[str, float]:
        """Bytes per second by tier, as the loader's `floors` wants them.

        *place* is the store that is meant by "remote"; without one, the only one there is.
        """
        if place is None and len(self.stores) == 1:
            place = next(iter(self.stores))
        links = {
            "host": self.memory_all or self.memory,
            "disk": self.disk,
            "remote": self.stores.get(place or ""),
            "device": self.device,
        }
        return {tier: link.bytes_per_s for tier, link in links.items() if link is not None}


_FORMAT = TypeAdapter(Links)


def links_path(home: Path) -> Path:
    return home / "links.json"


def read_links(home: Path) -> Links | None:
    """None where nothing was measured yet, or the file says nothing that can be used."""
    try:
        return _FORMAT.validate_json(links_path(home).read_bytes())
    except (OSError, ValueError):  # floors are a help to read a timeline, nothing depends on them
        return None


def store_links(links: Links, home: Path) -> Links:
    """Write *links* atomically, with the stores that were measured before; returns what is there.

    Raises OSError.
    """
    known = read_links(home)
    if known is not None:
        links = replace(links, stores={**known.stores, **links.stores})
    part = home / f".links-{os.getpid()}.part"
    part.write_text(json.dumps(asdict(links), indent=2) + "\n")
    part.replace(links_path(home))
    return links
